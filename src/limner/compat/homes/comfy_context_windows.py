"""comfy.context_windows: long videos window by window; not supported yet."""

from limner.compat.homes.not_yet import placeholder

ContextWindowABC = placeholder("ContextWindowABC", "video")
ContextHandlerABC = placeholder("ContextHandlerABC", "video")
IndexListContextWindow = placeholder("IndexListContextWindow", "video")
IndexListContextHandler = placeholder("IndexListContextHandler", "video")
IndexListCallbacks = placeholder("IndexListCallbacks", "video")
ContextSchedule = placeholder("ContextSchedule", "video")
ContextFuseMethod = placeholder("ContextFuseMethod", "video")
ContextSchedules = placeholder("ContextSchedules", "video")
ContextFuseMethods = placeholder("ContextFuseMethods", "video")
create_prepare_sampling_wrapper = placeholder("create_prepare_sampling_wrapper", "video")
create_sampler_sample_wrapper = placeholder("create_sampler_sample_wrapper", "video")
get_matching_context_schedule = placeholder("get_matching_context_schedule", "video")
get_matching_fuse_method = placeholder("get_matching_fuse_method", "video")
CONTEXT_MAPPING: dict[str, object] = {}
FUSE_MAPPING: dict[str, object] = {}
