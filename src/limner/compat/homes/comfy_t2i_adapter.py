"""comfy.t2i_adapter.adapter: T2I adapters by the reference's arguments."""

from __future__ import annotations

from collections.abc import Sequence

from limner.compat.homes.not_yet import missing
from limner.compat.homes.stands_for import StandsFor
from limner.models.control import t2i
from limner.models.control.t2i import AdapterConfig

WIDTHS = (320, 640, 1280, 1280)


def _unshuffle(cin: int, xl: bool) -> int:
    return 16 if xl and cin in t2i.XL_CHANNELS else 8


class Adapter(t2i.Adapter, metaclass=StandsFor):
    """A full adapter. channels: of each level; nums_rb: residual blocks of each; cin: channels after the unshuffle."""

    recognises = staticmethod(lambda found: isinstance(found, t2i.Adapter) and not found.config.light)

    def __init__(
        self,
        channels: Sequence[int] = WIDTHS,
        nums_rb: int = 3,
        cin: int = 64,
        ksize: int = 3,
        sk: bool = False,
        use_conv: bool = True,
        xl: bool = True,
    ) -> None:
        if not sk or use_conv:
            raise missing("Adapter without sk, or with use_conv", "config")
        unshuffle = _unshuffle(cin, xl)
        xl = unshuffle == 16
        super().__init__(AdapterConfig(cin // unshuffle**2, unshuffle, tuple(channels), nums_rb, False, xl, ksize))


class Adapter_light(t2i.Adapter, metaclass=StandsFor):  # noqa: N801 - the name that packs import
    """A light adapter: narrow residual blocks between 1×1 convolutions."""

    recognises = staticmethod(lambda found: isinstance(found, t2i.Adapter) and found.config.light)

    def __init__(self, channels: Sequence[int] = WIDTHS, nums_rb: int = 3, cin: int = 64) -> None:
        widths = tuple(channels)
        inner = tuple(width // 4 for width in widths)
        super().__init__(AdapterConfig(cin // 64, 8, widths, nums_rb, True, False, 3, inner))
