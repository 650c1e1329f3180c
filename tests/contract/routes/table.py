"""Every route with every status it answers: what is asked, and what comes back. Facts of routes.md; rows that differ
from ComfyUI on purpose say why in `unlike`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ANY = object()
"""Any body."""
NO_BODY = b""


@dataclass(frozen=True)
class Row:
    """One request and its reply.

    route: the route as the reference names it. wants: the whole body (parsed where it is JSON), a type, or a set of
    keys that the object (or each object of the list) must have. only: mounted once, so not asked below `/api`.
    """

    route: str
    status: int
    path: str
    body: bytes | None = None
    wants: Any = ANY
    headers: Mapping[str, str] = field(default_factory=dict)
    sends: Mapping[str, str] = field(default_factory=dict)
    only: bool = False
    unlike: str = ""

    @property
    def method(self) -> str:
        return self.route.partition(" ")[0]

    @property
    def name(self) -> str:
        """The rule that the row proves."""
        return f"{self.route} {self.status}"


def js(value: Any) -> bytes:
    return json.dumps(value).encode()


FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def form(name: str | None = "up.png", data: bytes = b"x", **fields: str) -> bytes:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n' for key, text in fields.items()]
    body = "".join(parts).encode()
    if name is not None:
        body += f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        body += data + b"\r\n"
    return body + b"--b--\r\n"


STRICT = "ComfyUI answers 500 to a body that is no JSON"
TOLD = "ComfyUI answers 200 and writes nothing"
JSON_HEAD = {"Content-Type": "application/json; charset=utf-8"}
NOT_KEPT = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "0"}
PICTURE_KEPT = {"Cache-Control": "public, max-age=86400"}
PREVIEW = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}

SYSTEM = (
    Row("GET /", 200, "/", headers=NOT_KEPT),
    Row("GET /embeddings", 200, "/embeddings", wants=["style"], headers=JSON_HEAD),
    Row("GET /models", 200, "/models", wants=list),
    Row("GET /models/{folder}", 200, "/models/loras", wants=["a.safetensors", "b.ckpt", "bare.safetensors"]),
    Row("GET /models/{folder}", 404, "/models/gone"),
    Row("GET /models/{folder}", 404, "/models/unet"),
    Row("GET /extensions", 200, "/extensions", wants=list),
    Row("GET /system_stats", 200, "/system_stats", wants={"system", "devices"}),
    Row(
        "GET /features",
        200,
        "/features",
        wants={"supports_preview_metadata": True, "max_upload_size": 2 << 20},
    ),
    Row("GET /object_info", 200, "/object_info", wants=dict, headers=JSON_HEAD),
    Row("GET /object_info/{node_class}", 200, "/object_info/PreviewAny", wants={"PreviewAny"}),
    Row("GET /object_info/{node_class}", 200, "/object_info/Gone", wants={}),
    Row("GET /view_metadata/{folder_name}", 200, "/view_metadata/loras?filename=a.safetensors", wants={"x": "1"}),
    Row("GET /view_metadata/{folder_name}", 404, "/view_metadata/loras?filename=bare.safetensors"),
    Row("GET /view_metadata/{folder_name}", 404, "/view_metadata/loras?filename=b.ckpt"),
    Row("GET /view_metadata/{folder_name}", 404, "/view_metadata/loras"),
    Row("GET /view_metadata/{folder_name}", 404, "/view_metadata/gone?filename=a.safetensors"),
    Row("GET /experiment/models", 200, "/experiment/models", wants={"name", "folders"}),
    Row(
        "GET /experiment/models/{folder}",
        200,
        "/experiment/models/loras",
        wants={"name", "pathIndex", "modified", "created", "size"},
    ),
    Row("GET /experiment/models/{folder}", 404, "/experiment/models/gone"),
    Row(
        "GET /experiment/models/preview/{folder}/{path_index}/{filename}",
        200,
        "/experiment/models/preview/loras/0/a.safetensors",
        headers={"Content-Type": "image/webp"},
    ),
    Row(
        "GET /experiment/models/preview/{folder}/{path_index}/{filename}",
        404,
        "/experiment/models/preview/loras/0/bare.safetensors",
    ),
    Row("GET /workflow_templates", 200, "/workflow_templates", wants={"my pack": ["first"]}),
    Row("GET /i18n", 200, "/i18n", wants={"de": {"x": [1]}}),
    Row("GET /global_subgraphs", 200, "/global_subgraphs", wants=dict),
    Row("GET /global_subgraphs/{id}", 200, "/global_subgraphs/gone", wants=None),
    Row("GET /node_replacements", 200, "/node_replacements", wants=dict),
    Row("GET /internal/logs", 200, "/internal/logs", wants=str, only=True),
    Row("GET /internal/logs/raw", 200, "/internal/logs/raw", wants={"entries", "size"}, only=True),
    Row(
        "PATCH /internal/logs/subscribe",
        200,
        "/internal/logs/subscribe",
        js({"clientId": "x", "enabled": True}),
        wants=NO_BODY,
        only=True,
    ),
    Row("PATCH /internal/logs/subscribe", 400, "/internal/logs/subscribe", b"", only=True, unlike=STRICT),
    Row("GET /internal/folder_paths", 200, "/internal/folder_paths", wants=dict, only=True),
    Row("GET /internal/files/{directory_type}", 200, "/internal/files/input", wants=["in.png"], only=True),
    Row(
        "GET /internal/files/{directory_type}",
        400,
        "/internal/files/user",
        wants={"error": "Invalid directory type"},
        only=True,
    ),
)

QUEUE = (
    Row("GET /prompt", 200, "/prompt", wants={"exec_info"}),
    Row("POST /prompt", 200, "/prompt", js({"prompt": PREVIEW}), wants={"prompt_id", "number", "node_errors"}),
    Row(
        "POST /prompt",
        400,
        "/prompt",
        js({}),
        wants={
            "error": {
                "type": "no_prompt",
                "message": "No prompt provided",
                "details": "No prompt provided",
                "extra_info": {},
            },
            "node_errors": {},
        },
    ),
    Row("POST /prompt", 400, "/prompt", js({"prompt": {}}), wants={"error", "node_errors"}),
    Row("POST /prompt", 400, "/prompt", b"{", wants={"error", "node_errors"}, unlike=STRICT),
    Row("POST /prompt", 413, "/prompt", b" " * (2 << 20) + b"{}"),
    Row("GET /queue", 200, "/queue", wants={"queue_running", "queue_pending"}),
    Row("POST /queue", 200, "/queue", js({"delete": ["gone"]}), wants=NO_BODY),
    Row("POST /queue", 200, "/queue", js({"clear": True}), wants=NO_BODY),
    Row("POST /queue", 400, "/queue", b"", unlike=STRICT),
    Row("GET /history", 200, "/history", wants=dict),
    Row("GET /history", 200, "/history?max_items=1&offset=0", wants=dict),
    Row("GET /history", 400, "/history?max_items=x", unlike="ComfyUI answers 500"),
    Row("GET /history/{prompt_id}", 200, "/history/gone", wants={}),
    Row("POST /history", 200, "/history", js({"delete": ["gone"]}), wants=NO_BODY),
    Row("POST /history", 400, "/history", b"x", unlike=STRICT),
    Row("POST /interrupt", 200, "/interrupt", js({"prompt_id": "gone"}), wants=NO_BODY),
    Row("POST /interrupt", 200, "/interrupt", b"", wants=NO_BODY),
    Row("POST /interrupt", 200, "/interrupt", b"\xff{", wants=NO_BODY),
    Row("POST /free", 200, "/free", js({"unload_models": False}), wants=NO_BODY),
    Row("POST /free", 400, "/free", b"", unlike=STRICT),
    Row("GET /ws", 400, "/ws"),
    Row("GET /api/jobs", 200, "/jobs?status=in_progress,pending&limit=200&offset=0", wants={"jobs", "pagination"}),
    *(
        Row("GET /api/jobs", 400, f"/jobs?{query}", wants={"error": text})
        for query, text in (
            (
                "status=odd,pending",
                "Invalid status value(s): odd. Valid values: pending, in_progress, completed, failed, cancelled",
            ),
            ("sort_by=x", "sort_by must be 'created_at' or 'execution_duration'"),
            ("sort_order=x", "sort_order must be 'asc' or 'desc'"),
            ("limit=0", "limit must be a positive integer"),
            ("limit=x", "limit must be an integer"),
            ("offset=x", "offset must be an integer"),
        )
    ),
    Row("GET /api/jobs/{id}", 404, "/jobs/gone", wants={"error": "Job not found"}),
    Row("POST /api/jobs/{id}/cancel", 200, "/jobs/gone/cancel", wants={"cancelled": False}),
    Row("POST /api/jobs/cancel", 200, "/jobs/cancel", js({"job_ids": []}), wants={"cancelled": False}),
    Row("POST /api/jobs/cancel", 400, "/jobs/cancel", b"", wants={"error": "Request body must be valid JSON"}),
    Row("POST /api/jobs/cancel", 400, "/jobs/cancel", js({}), wants={"error": "job_ids must be a list"}),
    Row(
        "POST /api/jobs/cancel",
        400,
        "/jobs/cancel",
        js({"job_ids": ["x"]}),
        wants={"error": "job_ids contains invalid id(s)", "invalid_ids": ["x"]},
    ),
)

FILES = (
    Row(
        "POST /upload/image",
        200,
        "/upload/image",
        form("u.png"),
        {"name": "u.png", "subfolder": "", "type": "input"},
        sends=FORM,
    ),
    Row(
        "POST /upload/image",
        200,
        "/upload/image",
        form("u.txt", b"any file", subfolder="new/er", type="temp", overwrite="true"),
        {"name": "u.txt", "subfolder": "new/er", "type": "temp"},
        sends=FORM,
    ),
    Row("POST /upload/image", 400, "/upload/image", form(None), sends=FORM),
    Row("POST /upload/image", 400, "/upload/image", form(""), sends=FORM),
    Row("POST /upload/image", 400, "/upload/image", form(subfolder="../.."), sends=FORM),
    Row("POST /upload/image", 400, "/upload/image", form(type="x"), sends=FORM, unlike="ComfyUI answers 500"),
    Row("POST /upload/image", 413, "/upload/image", form(data=b"x" * (2 << 20)), sends=FORM),
    Row(
        "POST /upload/mask",
        200,
        "/upload/mask",
        form("m.png", b"PICTURE", original_ref=json.dumps({"filename": "a.png [output]"})),
        {"name": "m.png", "subfolder": "", "type": "input"},
        sends=FORM,
    ),
    Row(
        "POST /upload/mask",
        404,
        "/upload/mask",
        form("m.png", b"PICTURE", original_ref=json.dumps({"filename": "gone.png"})),
        sends=FORM,
        unlike=TOLD,
    ),
    Row(
        "POST /upload/mask",
        400,
        "/upload/mask",
        form("m.png", b"PICTURE", original_ref=json.dumps({"filename": "../a.png"})),
        sends=FORM,
        unlike=TOLD,
    ),
    Row("POST /upload/mask", 400, "/upload/mask", form("m.png"), sends=FORM, unlike="ComfyUI answers 500"),
    Row(
        "GET /view",
        200,
        "/view?filename=a.png&rand=0.1",
        headers={"Content-Type": "image/png", "Content-Disposition": 'filename="a.png"'},
    ),
    Row("GET /view", 200, "/view?filename=b.png&subfolder=sub&type=output"),
    Row("GET /view", 200, "/view?filename=in.png%20[input]&type=output"),
    Row("GET /view", 200, "/view?filename=a.png&preview=webp;50", headers={"Content-Type": "image/webp"}),
    Row("GET /view", 200, "/view?filename=a.png&preview=jpeg;90", headers={"Content-Type": "image/jpeg"}),
    Row("GET /view", 200, "/view?filename=a.png&preview=jpeg&channel=a", headers={"Content-Type": "image/webp"}),
    Row("GET /view", 200, "/view?filename=a.png&preview=odd", headers={"Content-Type": "image/webp"}),
    Row("GET /view", 200, "/view?filename=a.png&channel=rgb", headers={"Content-Type": "image/png"}),
    Row("GET /view", 200, "/view?filename=b.png&subfolder=sub&channel=a", headers={"Content-Type": "image/png"}),
    Row("GET /view", 200, "/view?filename=a.png&channel=rgba", headers={"Content-Type": "image/png"}),
    Row("GET /view", 200, "/view?filename=page.html", headers={"Content-Type": "application/octet-stream"}),
    Row("GET /view", 206, "/view?filename=a.png", sends={"Range": "bytes=0-3"}, wants=b"\x89PNG"),
    Row("GET /view", 416, "/view?filename=a.png", sends={"Range": "bytes=999999-"}),
    Row("GET /view", 400, "/view?filename="),
    Row("GET /view", 400, "/view?filename=/a.png"),
    Row("GET /view", 400, "/view?filename=..%2fa.png"),
    Row("GET /view", 400, "/view?filename=a.png&type=odd"),
    Row("GET /view", 403, "/view?filename=a.png&subfolder=../.."),
    Row("GET /view", 404, "/view"),
    Row("GET /view", 404, "/view?filename=gone.png"),
)

USERS = (
    Row("GET /settings", 200, "/settings", wants=dict),
    Row("POST /settings", 200, "/settings", js({"A.b": 1}), wants=NO_BODY),
    Row("POST /settings", 400, "/settings", b"", unlike=STRICT),
    Row("GET /settings/{id}", 200, "/settings/Gone", wants=None),
    Row("POST /settings/{id}", 200, "/settings/C.d", js([1]), wants=NO_BODY),
    Row("POST /settings/{id}", 400, "/settings/C.d", b"", unlike=STRICT),
    Row("GET /users", 200, "/users", wants={"storage": "server", "migrated": True}),
    Row("POST /users", 400, "/users", js({"username": ""}), wants={"error"}, unlike="ComfyUI takes an empty name"),
    Row("GET /userdata", 200, "/userdata?dir=workflows", wants=["w.json"]),
    Row("GET /userdata", 200, "/userdata?dir=deep&recurse=true&split=true", wants=[["er/f.txt", "er", "f.txt"]]),
    Row(
        "GET /userdata",
        200,
        "/userdata?dir=deep&recurse=true&full_info=true",
        wants={"path", "size", "modified", "created"},
    ),
    Row("GET /userdata", 400, "/userdata", wants=b"Directory not provided"),
    Row("GET /userdata", 403, "/userdata?dir=..", wants=b"Invalid directory"),
    Row("GET /userdata", 404, "/userdata?dir=gone", wants=b"Directory not found"),
    Row("GET /v2/userdata", 200, "/v2/userdata?path=deep", wants={"name", "path", "type"}),
    Row("GET /v2/userdata", 400, "/v2/userdata?path=workflows%2fw.json"),
    Row("GET /v2/userdata", 403, "/v2/userdata?path=..%2f.."),
    Row("GET /v2/userdata", 404, "/v2/userdata?path=gone"),
    Row("GET /userdata/{file}", 200, "/userdata/workflows%2Fw.json", wants={}),
    Row("GET /userdata/{file}", 200, "/userdata/workflows%252Fw.json", wants={}),
    Row("GET /userdata/{file}", 403, "/userdata/..%2f..%2fx"),
    Row("GET /userdata/{file}", 404, "/userdata/gone.json"),
    Row("POST /userdata/{file}", 200, "/userdata/new%2Fn.json", b"{}", wants="new/n.json"),
    Row(
        "POST /userdata/{file}",
        200,
        "/userdata/n2.json?full_info=true",
        b"{}",
        wants={"path", "size", "modified", "created"},
    ),
    Row("POST /userdata/{file}", 403, "/userdata/..%2f..%2fx", b"x"),
    Row(
        "POST /userdata/{file}",
        409,
        "/userdata/workflows%2Fw.json?overwrite=false",
        b"x",
        wants=b"File already exists",
    ),
    Row("POST /userdata/{file}", 400, "/userdata/workflows", b"x"),
    Row("POST /userdata/{file}/move/{dest}", 404, "/userdata/gone/move/x"),
    Row("POST /userdata/{file}/move/{dest}", 403, "/userdata/workflows%2Fw.json/move/..%2fx"),
    Row(
        "POST /userdata/{file}/move/{dest}",
        409,
        "/userdata/workflows%2Fw.json/move/deep%2Fer%2Ff.txt?overwrite=false",
        wants=b"File already exists",
    ),
    Row("DELETE /userdata/{file}", 404, "/userdata/gone"),
    Row("DELETE /userdata/{file}", 403, "/userdata/..%2fx"),
)

STATIC = (
    Row("GET /api/workflow_templates/{pack}/{file}", 200, "/api/workflow_templates/my%20pack/first.json", only=True),
    Row("GET /docs/{file}", 404, "/docs/gone.md", only=True),
    Row("GET /templates/{file}", 404, "/templates/gone.webp", only=True),
    Row("GET /{file}", 404, "/gone.js", only=True),
    Row("GET /{file}", 404, "/api/internal/logs", only=True),
    Row("DELETE /prompt", 405, "/prompt"),
    Row("POST /view", 405, "/view"),
    Row("OPTIONS /prompt", 200, "/prompt", wants=NO_BODY),
    Row("HEAD /queue", 200, "/queue", wants=NO_BODY),
)

BEYOND = (
    Row("GET /healthz", 200, "/healthz", wants={"status": "ok"}),
    Row("GET /readyz", 200, "/readyz", wants={"ready", "engine", "packs", "database"}),
    Row("GET /metrics", 200, "/metrics"),
    Row("GET /memory", 200, "/memory", wants={"ready", "devices", "runs"}),
    Row("GET /openapi.json", 200, "/openapi.json", wants={"openapi", "paths"}),
    Row("GET /packs", 200, "/packs", wants=dict),
    Row("GET /login", 200, "/login", headers={"Cache-Control": "no-store"}, only=True),
    Row(
        "POST /login",
        401,
        "/login",
        b"api_key=x",
        sends={"Content-Type": "application/x-www-form-urlencoded"},
        only=True,
    ),
    Row("GET /user.css", 200, "/user.css", headers={"Content-Type": "text/css; charset=utf-8"}),
    Row("GET /templates/index.json", 200, "/templates/index.json", wants=list, only=True),
    Row("GET /templates/{file}", 200, "/templates/text_to_image.json", wants=dict, only=True),
    Row("GET /queue/state", 200, "/queue/state", wants=dict),
    Row("POST /queue/pause", 200, "/queue/pause", wants=dict),
    Row("POST /queue/resume", 200, "/queue/resume", wants=dict),
    Row("POST /queue/move", 400, "/queue/move", b"{}", wants={"error"}),
    Row("GET /api/jobs/{id}/explain", 404, "/jobs/gone/explain", wants={"error": "Job not found"}),
    Row(
        "POST /api/jobs/{id}/priority",
        404,
        "/jobs/gone/priority",
        js({"priority": 1}),
        wants={"error": "Job not found"},
    ),
    Row("POST /api/jobs/{id}/priority", 400, "/jobs/gone/priority", js({"priority": "x"}), wants={"error"}),
    Row("GET /workflow_templates/{pack}/{path}", 404, "/workflow_templates/gone/x.json"),
)
"""Routes that ComfyUI has not."""

ROWS = (*BEYOND, *SYSTEM, *QUEUE, *FILES, *USERS, *STATIC)
