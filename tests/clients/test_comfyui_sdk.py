"""@saintno/comfyui-sdk 0.3.1: its command line, its code generator, and a pool over two servers."""

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from tests.clients.make import PICTURE, Live, live

POOL = """
import { ComfyApi, ComfyPool, CallWrapper, PromptBuilder, EQueueMode } from "@saintno/comfyui-sdk";
import { readFileSync } from "node:fs";

const [file, ...urls] = process.argv.slice(2);
const prompt = JSON.parse(readFileSync(file, "utf8"));
// By default the SDK renews a socket that was silent for ten seconds and fails the jobs given to it meanwhile. Importing
// torch in two servers on a busy machine takes that long, with any server, so the time-out is raised.
const apis = urls.map((url) => new ComfyApi(url, ComfyApi.generateId(), { wsTimeout: 300000 }));
const pool = new ComfyPool(apis, EQueueMode.PICK_ZERO);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const allOpen = async () => { while (apis.some((api) => api.socket?.client?.readyState !== 1)) await sleep(20); };
const once = (api, color) => new Promise((resolve, reject) => {
  const builder = new PromptBuilder(prompt, ["color"], ["images"])
    .setInputNode("color", "1.inputs.color").setOutputNode("images", "2").input("color", color);
  new CallWrapper(api, builder)
    .onFinished((data) => resolve(api.getPathImage(data.images.images[0])))
    .onFailed((error) => reject(error)).run();
});
// The SDK listens for a job's events only once it has read the reply to POST /prompt, so it misses the end of a job that
// is quicker; and for minutes after a restart it closes and opens its sockets again and again, open or not. Its user
// gives such a job again.
const patiently = (color) => async (api) => {
  for (let attempt = 0; ; attempt++) {
    const late = sleep(10000).then(() => { throw new Error("late"); });
    try {
      return await Promise.race([once(api, color), late]);
    } catch (error) {
      if (attempt === 9) throw error;
    }
  }
};
const batch = async (start) => {
  await allOpen();
  return pool.batch([0, 1, 2, 3, 4, 5].map((i) => patiently(start + i)));
};
setTimeout(() => process.exit(1), 300000);
console.log(JSON.stringify(await batch(0)));
apis[1].on("disconnected", () => console.log("disconnected"));
process.on("uncaughtException", (error) => console.error(error));
process.stdin.once("data", async () => {
  console.log(JSON.stringify(await batch(100)));
  process.exit(0);
});
"""


def run(server: Live, prompt: Mapping[str, object]) -> None:
    """Run a prompt over HTTP and wait for its end."""
    body = json.dumps({"prompt": prompt}).encode()
    request = urllib.request.Request(f"{server.url}/prompt?wait=true", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert json.load(reply)["status"]["completed"]


def cfli(sdk: Path, *arguments: str) -> str:
    command = [str(shutil.which("node")), str(sdk / "node_modules/@saintno/comfyui-sdk/dist/cli.js"), *arguments]
    done = subprocess.run(command, cwd=sdk, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_command_line_runs_a_workflow_and_fetches_the_picture(limner: Live, sdk: Path, tmp_path: Path) -> None:
    (tmp_path / "workflow.json").write_text(json.dumps(PICTURE))
    out = tmp_path / "out"

    arguments = ("-f", str(tmp_path / "workflow.json"), "-H", limner.url, "-i", "1.inputs.color=65280")
    result = json.loads(cfli(sdk, *arguments, "-d", "-o", str(out), "--json"))

    assert result["status"] == "completed"
    (file,) = out.iterdir()
    with Image.open(file) as picture:
        assert picture.getpixel((0, 0)) == (0, 255, 0)


def test_the_code_generator_reads_every_node(limner: Live, sdk: Path, tmp_path: Path) -> None:
    cfli(sdk, "codegen", "-H", limner.url, "-o", str(tmp_path / "nodes.ts"))

    assert "KSampler" in (tmp_path / "nodes.ts").read_text()


def test_a_pool_uses_two_servers_and_goes_on_when_one_was_restarted(sdk: Path, tmp_path: Path) -> None:
    script = sdk / "pool.mjs"
    script.write_text(POOL)
    (tmp_path / "workflow.json").write_text(json.dumps(PICTURE))
    with live(tmp_path / "one") as one:
        with live(tmp_path / "two") as two:
            port = str(two.port)
            command = [str(shutil.which("node")), str(script), str(tmp_path / "workflow.json"), one.url, two.url]
            pool = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=sdk)
            assert pool.stdin is not None
            assert pool.stdout is not None
            first = json.loads(pool.stdout.readline())
        try:
            assert pool.stdout.readline() == "disconnected\n"
            with live(tmp_path / "two", "--port", port) as two:
                run(two, PICTURE)  # torch is imported before the pool's jobs come, so that each takes milliseconds
                pool.stdin.write("go on\n")
                pool.stdin.flush()
                again = json.loads(pool.stdout.readline())
        finally:
            pool.kill()
            pool.wait()

    assert (len(first), len(again)) == (6, 6)
    assert {url.split("/view")[0] for url in first} == {one.url, two.url}
