"""Takes a hive through its work on an NVIDIA GPU, compares what it says with nvidia-smi, and reports.

.ci/gpu-check calls it. It uses Python's standard library and the hive's public API alone.
"""

import argparse
import datetime
import json
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30


def mib(size):
    return f"{size / MIB:,.0f} MiB"


# What nvidia-smi says


def smi(query, fields):
    words = ["nvidia-smi", f"--query-{query}={fields}", "--format=csv,noheader,nounits"]
    out = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout
    return [[cell.strip() for cell in line.split(",")] for line in out.splitlines() if line.strip()]


def gpu():
    """The first GPU: the names of its fields, memory in bytes."""
    fields = "name,driver_version,compute_cap,memory.total,memory.used,memory.free,memory.reserved"
    row = dict(zip(fields.split(","), smi("gpu", fields)[0]))
    for name in row:
        if name.startswith("memory."):
            row[name] = int(row[name]) * MIB if row[name].isdigit() else 0
    return row


def taken():
    """What is not free, as the hive counts it."""
    row = gpu()
    return row["memory.total"] - row["memory.free"]


def holders():
    """The bytes that each process holds of the GPU."""
    rows = smi("compute-apps", "pid,used_memory")
    return {int(pid): int(used) * MIB for pid, used in rows if used.isdigit()}


def until(what, condition, seconds=30):
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.1)


def runs(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


# Models


def metadata_of(path):
    """The metadata of a GGUF file: the bytes of each pair by its key."""
    data = path.read_bytes()
    at = 24
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def number(format):
        nonlocal at
        (value,) = struct.unpack_from(format, data, at)
        at += struct.calcsize(format)
        return value

    def skip(kind):
        nonlocal at
        if kind == 8:
            length = number("<Q")
            at += length
        elif kind == 9:
            items, count = number("<I"), number("<Q")
            for _ in range(count):
                skip(items)
        else:
            at += sizes[kind]

    pairs = {}
    (count,) = struct.unpack_from("<Q", data, 16)
    for _ in range(count):
        start = at
        length = number("<Q")
        key = data[at : at + length].decode()
        at += length
        skip(number("<I"))
        pairs[key] = data[start:at]
    return pairs


def larger(pair, count, more):
    """An array of metadata with as many items as that; `more` makes the bytes of each further one."""
    at = 8 + struct.unpack_from("<Q", pair)[0] + 8
    (has,) = struct.unpack_from("<Q", pair, at)
    return pair[:at] + struct.pack("<Q", count) + pair[at + 8 :] + b"".join(map(more, range(has, count)))


def write_model(like, path, kind, width, blocks, tokens):
    """A model with random weights and the vocabulary of another one, filled up to so many tokens."""
    pairs = metadata_of(like)
    heads, inner = width // 128, (width * 11 // 4) // 256 * 256
    groups = max(1, heads // 4)
    (has,) = struct.unpack("<I", pairs["llama.vocab_size"][-4:])
    vocabulary = max(has, tokens)
    text = lambda number: struct.pack("<Q", 12) + b"<|%08d|>" % number
    pairs["tokenizer.ggml.tokens"] = larger(pairs["tokenizer.ggml.tokens"], vocabulary, text)
    pairs["tokenizer.ggml.token_type"] = larger(pairs["tokenizer.ggml.token_type"], vocabulary, lambda _: struct.pack("<i", 1))

    def pair(key, kind, value):
        name = key.encode()
        return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value

    for key, value in {
        "llama.vocab_size": vocabulary,
        "llama.context_length": 131072,
        "llama.embedding_length": width,
        "llama.block_count": blocks,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups,
        "llama.attention.key_length": 128,
        "llama.attention.value_length": 128,
        "llama.rope.dimension_count": 128,
        "general.file_type": {"F16": 1, "Q8_0": 7}[kind],
    }.items():
        pairs[key] = pair(key, 4, struct.pack("<I", value))
    name = path.stem.encode()
    pairs["general.name"] = pair("general.name", 8, struct.pack("<Q", len(name)) + name)

    # Random bytes, over and over: with a length that no row's length divides, so that rows differ. A whole of
    # +-127 times its scale, and the exponents of the halves, keep sums as small as those of a trained model.
    if kind == "Q8_0":
        number, elements, size = 8, 32, 34
        piece = b"".join(struct.pack("<e", 0.0002) + os.urandom(32) for _ in range(65537))
    else:
        number, elements, size = 1, 1, 2
        raw = bytearray(os.urandom(2 * 1048583))
        for odd in range(1, len(raw), 2):
            raw[odd] = raw[odd] & 0x83 | 0x20
        piece = bytes(raw)

    matrices = [("token_embd", width, vocabulary), ("output", width, vocabulary)]
    norms = ["output_norm"]
    for block in range(blocks):
        norms += [f"blk.{block}.attn_norm", f"blk.{block}.ffn_norm"]
        for name, inputs, outputs in [
            ("attn_q", width, width),
            ("attn_k", width, groups * 128),
            ("attn_v", width, groups * 128),
            ("attn_output", width, width),
            ("ffn_gate", width, inner),
            ("ffn_up", width, inner),
            ("ffn_down", inner, width),
        ]:
            matrices.append((f"blk.{block}.{name}", inputs, outputs))
    tensors = [(name, (width,), 0, 4 * width) for name in norms]
    tensors += [(name, (a, b), number, a * b // elements * size) for name, a, b in matrices]
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)), *pairs.values()]
    offset = 0
    for name, shape, number, length in tensors:
        name = f"{name}.weight".encode()
        head.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape)))
        head.append(struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", number, offset))
        offset += (length + 31) // 32 * 32
    head = b"".join(head)
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for _, shape, _, length in tensors:
            left = length
            if len(shape) == 1:
                file.write(struct.pack("<f", 1.0) * width)
                left = 0
            while left > 0:
                left -= file.write(piece[:left])
            file.write(bytes(-length % 32))
    return path.stat().st_size


# The hive


class Failed(AssertionError):
    """A job that failed, with its problem and its stream."""

    def __init__(self, job, failure, lines):
        super().__init__(f"{job} failed: {json.dumps(failure)}")
        self.failure, self.lines = failure, lines


class Hive:
    def __init__(self, args, folder):
        self.args, self.folder, self.process, self.url = args, folder, None, None

    def start(self):
        """Starts it on its data folder. Returns how long it took until it served."""
        words = [self.args.hive, "serve", "--port", "0", "--data-dir", self.folder / "data"]
        words += ["--models-dir", self.folder / "models", "--config", self.folder / "hive.toml"]
        # With a log that tells of layers and buffers. The hive keeps such variables from workers.
        server = self.folder / "talkative"
        if not server.exists():
            # One that is to leave the GPU alone does not: for that log it asks the GPU, which takes memory.
            server.write_text(
                f'#!/bin/sh\ncase " $* " in *" --device none "*) ;; *) export LLAMA_ARG_LOG_VERBOSITY=4 ;; esac\n'
                f'exec "{self.args.server}" "$@"\n'
            )
            server.chmod(0o755)
        words += ["--llama-server", server]
        began = time.monotonic()
        log = (self.folder / "hive.log").open("ab")
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://[0-9.:]+", line)
        if not found:
            raise AssertionError(f"the hive did not start: {line} {self.tail()}")
        self.url = found[0].rstrip("/.")
        return time.monotonic() - began

    def tail(self):
        return (self.folder / "hive.log").read_text(errors="replace")[-3000:]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.terminate()
        return self.process.wait(60)

    def open(self, path, body=None, seconds=120):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=seconds)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} answered {error.code}: {error.read()[:2000]}") from error

    def get(self, path):
        with self.open(path) as answer:
            return json.load(answer)

    def text(self, path):
        with self.open(path) as answer:
            return answer.read().decode(errors="replace")

    def post(self, path, body, seconds=120):
        with self.open(path, body, seconds) as answer:
            return json.load(answer)

    def submit(self, operation, **fields):
        return self.post("/v1/jobs", {operation: fields})["job_id"]

    def job(self, operation, **fields):
        """Does an operation. Returns its result and its narrations."""
        job = self.submit(operation, **fields)
        lines = [line[6:] for line in self.text(f"/v1/jobs/{job}/stream").splitlines() if line.startswith("data: ")]
        if lines[-1] != "[DONE]":
            raise Failed(operation, self.get(f"/v1/jobs/{job}").get("failure"), lines)
        return json.loads(lines[-2]), lines[:-2]

    def do(self, operation, **fields):
        return self.job(operation, **fields)[0]

    def worker(self, pid):
        return self.do("WorkerProcessGet", pid=pid)

    def chat(self, model, text="Hello, who are you?", **more):
        body = {"model": model, "temperature": 0, "max_tokens": 64, "messages": [{"role": "user", "content": text}]}
        return self.post("/v1/chat/completions", body | more)


# The report


class Report:
    def __init__(self):
        self.rows, self.parts, self.began = [], [], time.monotonic()

    def check(self, what, passed, seen=""):
        mark = {True: "yes", False: "**no**", None: "not checked"}[passed]
        self.rows.append((what, mark, str(seen).replace("\n", " ").replace("|", "\\|")))
        print(f"[{time.monotonic() - self.began:6.1f}] {mark:11} {what}: {seen}", file=sys.stderr, flush=True)

    def part(self, title, *lines):
        self.parts.append(f"\n### {title}\n\n" + "\n".join(lines))

    def lines(self, title, lines):
        self.part(title, "```text", *(line[:600] for line in lines), "```")

    def table(self, title, heads, rows, note=""):
        bar = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
        self.part(title, *filter(None, [note and note + "\n"]), bar(heads), bar(["---"] * len(heads)), *map(bar, rows))


class Check:
    def __init__(self, args):
        self.args, self.report = args, Report()
        self.folder = Path(args.folder)
        self.hive = Hive(args, self.folder)
        self.stranger = None

    # Steps, in order; each leaves nothing loaded.

    def machine(self):
        row = gpu()
        nvcc = subprocess.run(["sh", "-c", "nvcc --version | grep release"], capture_output=True, text=True).stdout
        version = subprocess.run([self.args.server, "--version"], capture_output=True, text=True)
        version = (version.stdout + version.stderr).strip().splitlines()
        cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        self.name = row["name"]
        self.report.table(
            "Machine",
            ["", ""],
            [
                ["date", datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")],
                ["GPU", f"{row['name']}, {mib(row['memory.total'])}, compute capability {row['compute_cap']}"],
                ["GPU memory at the start", f"{mib(row['memory.used'])} used, {mib(row['memory.reserved'])} reserved"],
                ["driver, CUDA's compiler", f"{row['driver_version']}, {nvcc.strip()}"],
                ["processor", f"{cpu[1] if cpu else '?'}, {os.cpu_count()} cores"],
                ["system", f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}"],
                ["hive", subprocess.run([self.args.hive, "--version"], capture_output=True, text=True).stdout.strip()],
                ["llama-server", f"{next((line for line in version if line.startswith('version')), '?')}, {self.args.built}"],
            ],
        )

    def models(self):
        """The quickstart's model, and two with random weights."""
        made = self.folder / "quickstart"
        subprocess.run(
            [self.args.hive, "quickstart", "--offline", "--exit", "--port", "0", "--data-dir", made, "--llama-server", ""],
            check=True, capture_output=True, timeout=60,
        )
        models = self.folder / "models"
        models.mkdir()
        tiny = models / "tiny.gguf"
        tiny.write_bytes((made / "quickstart/rbee-quickstart.gguf").read_bytes())
        width, blocks = self.args.width, self.args.blocks
        began = time.monotonic()
        small = write_model(tiny, models / "small.gguf", "F16", width // 2, blocks // 2, 0)
        large = write_model(tiny, models / "large.gguf", "Q8_0", width, blocks, self.args.vocabulary)
        self.report.check("models made", True, f"F16 {mib(small)}, Q8_0 {mib(large)}, in {time.monotonic() - began:.1f} s")
        (self.folder / "hive.toml").write_text(
            '[models."large"]\nvariants.whole = { engine_options = { gpu_layers = 999 } }\n'
        )

    def devices(self):
        check, before = self.report.check, gpu()
        check("the hive starts", True, f"in {self.hive.start():.2f} s")
        began = time.monotonic()
        cards = self.hive.get("/v1/capabilities")
        took = time.monotonic() - began
        card = cards["devices"][0]
        gib = round(before["memory.total"] / GIB)
        expected = (before["name"], "gpu", before["compute_cap"])
        seen = (card["name"], card["device_type"], card["compute_capability"])
        check("/v1/capabilities: name and compute capability", seen == expected, json.dumps(card))
        check("/v1/capabilities: memory in GB", abs(card["vram_gb"] - gib) <= 1, f"{card['vram_gb']}, nvidia-smi {gib}")
        engine = cards["engines"][0]
        check("llama-server is the first engine, on cuda", engine["devices"][0] == "cuda", f"{engine}, in {took:.2f} s")
        result, lines = self.hive.job("HiveCheck")
        found = {entry["name"]: entry for entry in result["checks"]}
        detail = found["devices"]["detail"]
        check("HiveCheck: driver", f"NVIDIA driver {before['driver_version']}, " in detail, detail)
        free = re.search(r"cuda:0 (.*?), ([0-9.]+) (MiB|GiB) free", detail)
        size = float(free[2]) * (GIB if free[3] == "GiB" else MIB)
        check("HiveCheck: free memory as nvidia-smi's, to 1 %", abs(size - before["memory.free"]) < 0.01 * before["memory.total"], free[0])
        sandbox = found["sandbox"]["detail"]
        check("HiveCheck: llama-server runs within the sandbox, if the kernel has one", "but for" not in sandbox, sandbox)
        failed = [entry for entry in result["checks"] if not entry["ok"]]
        check("HiveCheck: everything is well", not failed, failed or "all checks")
        with self.hive.open("/v1/heartbeats/stream") as stream:
            beat = json.loads(next(line for line in stream if line.startswith(b"data:"))[5:])
        seen = beat["system"]["gpus"][0]
        used = before["memory.total"] - before["memory.free"]
        check("heartbeat: used memory as nvidia-smi's", abs(seen["memory_used_bytes"] - used) < 64 * MIB, json.dumps(seen))
        self.report.lines("HiveCheck", lines)

    def load(self, model, **fields):
        """Loads a model and measures what it takes. Returns the worker, its plan, bytes of it and of all, seconds."""
        plan = self.hive.do("ModelLoad", id=model, dry_run=True, **fields)
        before, began = taken(), time.monotonic()
        worker, lines = self.hive.job("ModelLoad", id=model, **fields)
        seconds = time.monotonic() - began
        self.load_lines = lines
        return worker, plan, holders().get(worker["pid"]), taken() - before, seconds

    def answers(self):
        """A tiny model whose whole answer is known."""
        check = self.report.check
        worker, plan, held, more, seconds = self.load("tiny")
        check("a load without a device goes to the GPU", worker["device"] == "cuda:0", f"{worker['engine']}, {seconds:.1f} s")
        answer = self.hive.chat("tiny")["choices"][0]["message"]["content"]
        check("the GPU's answer is the known one", answer.startswith("Hello from your hive!") and answer.endswith("all I know."), answer)
        self.hive.do("ModelUnload", id="tiny")
        check("what the smallest worker takes", None if held is None else True, f"{mib(more)} (its process: {held and mib(held)}), planned {mib(plan['required_bytes'])}")

        spawned = self.hive.do("WorkerSpawn", model="tiny", worker="cuda", device=0)
        check("WorkerSpawn takes 'cuda' and a number", spawned["device"] == "cuda:0", f"{spawned['engine']} on {spawned['device']}")
        self.hive.do("ModelUnload", id="tiny")
        worker, _, held, more, seconds = self.load("tiny", device="cpu")
        check("a load onto the processor takes no GPU memory", not held and more < 16 * MIB, f"{worker['device']}: {mib(more)}, {seconds:.1f} s")
        self.hive.do("ModelUnload", id="tiny")

    def plans(self):
        """Plans of several shapes against what nvidia-smi shows."""
        rows, errors = [], []
        shapes = [("large", 8192, 1), ("large", 1024, 1), ("large", 8192, 4), ("large", 65536, 1)]
        shapes += [("small", 1024, 1), ("small", 8192, 1), ("small", 32768, 2)]
        for model, context, slots in shapes:
            fields = {"device": "cuda:0", "context_length": context, "slots": slots}
            worker, plan, held, more, seconds = self.load(model, **fields)
            loaded = list(self.load_lines)
            pid = worker["pid"]
            if (model, context, slots) == ("large", 8192, 1):
                self.attempt(self.whole, worker, held, loaded)
            idle = more
            text = "the quick brown fox jumps over the lazy dog " * (min(context, 4096, 16 * self.args.tokens) // 64)
            self.hive.chat(model, text, max_tokens=8)
            more = max(more, more + (holders().get(pid) or 0) - (held or 0))
            self.hive.do("ModelUnload", id=model)
            parts = {part["name"]: part["bytes"] for part in plan["parts"]}
            planned = plan["required_bytes"]
            errors.append((planned - more) / more)
            rows.append([
                model, context, slots, mib(planned), mib(parts["weights"]), mib(parts["kv_cache"]), mib(parts["overhead"]),
                mib(idle), mib(more), f"{(planned - more) / more:+.1%}", f"{seconds:.1f} s",
            ])
        self.report.table(
            "Plans against nvidia-smi",
            ["model", "context", "slots", "planned", "weights", "cache", "overhead", "taken once loaded", "after a prompt", "plan off by", "load"],
            rows,
            "Taken is the GPU's memory that is no longer free; `large` is Q8_0, `small` is F16. Planned before anything was measured.",
        )
        self.report.check("no worker takes more than the plan", all(error >= 0 for error in errors), ", ".join(f"{e:+.1%}" for e in errors))
        self.report.check("plans are within 10 % of what is taken", all(abs(error) <= 0.1 for error in errors), "see the table")
        plan = self.hive.do("ModelLoad", id="large", device="cuda:0", context_length=8192, slots=1, dry_run=True)
        seen = {key: plan[key] for key in ["source_of_estimate", "required_bytes", "formula_bytes", "formula_error_bytes"]}
        self.report.check("a second plan uses what was measured", plan["source_of_estimate"] == "measured", seen)

    def whole(self, worker, held, lines):
        """A large model that is wholly on the GPU: its layers, its figures and its speed."""
        check, hive, pid = self.report.check, self.hive, worker["pid"]
        check("the hive's process is the one that nvidia-smi lists", held is not None, f"{pid}: {held and mib(held)}")
        log = hive.text(f"/v1/workers/{pid}/log")
        offloaded = re.search(r"offloaded (\d+)/(\d+) layers to GPU", log)
        check("all layers are on the GPU", bool(offloaded) and offloaded[1] == offloaded[2], offloaded and offloaded[0])
        buffers = re.findall(r"[^\n]*(?:buffer size|offloaded|[Ff]lash.?[Aa]tt|graph (?:nodes|splits))[^\n]*", log)
        self.report.lines("A load, as it is narrated", lines)
        self.report.lines("What llama-server says of its memory", [re.sub(r"^\S+ \S+ ", "", line) for line in buffers[:40]])
        seen = until("the worker's memory to be measured", lambda: hive.worker(pid)["vram_bytes"])
        check("WorkerProcessGet: memory as nvidia-smi's", held is not None and abs(seen - held) <= 2 * MIB, f"{mib(seen)}, nvidia-smi {held and mib(held)}")
        with hive.open("/v1/heartbeats/stream") as stream:
            beat = json.loads(next(line for line in stream if line.startswith(b"data:"))[5:])
        row = next((row for row in beat["workers"] if row["pid"] == pid), None)
        check("heartbeat: the worker's memory", bool(row) and row["vram_mb"] > 0, json.dumps(row))

        def speed(text, tokens):
            began = time.monotonic()
            answer = hive.chat("large", text, max_tokens=tokens, ignore_eos=True)
            seconds, told = time.monotonic() - began, answer.get("timings", {})
            return answer["usage"], told, seconds

        speed("warm up", 16)
        rows = []
        tokens = self.args.tokens
        for words in [1, 64, 700]:
            usage, told, seconds = speed(f"{time.time()} " + "the quick brown fox jumps over the lazy dog " * (words // 9 + 1), tokens)
            rows.append([
                usage["prompt_tokens"], usage["completion_tokens"], f"{told.get('prompt_per_second', 0):,.0f}",
                f"{told.get('predicted_per_second', 0):.1f}", f"{usage['completion_tokens'] / seconds:.1f}",
            ])
        self.report.table(
            "Speed of the large model, through the hive", ["prompt tokens", "answer tokens", "prompt tokens/s", "answer tokens/s", "of the whole request"], rows,
            "Tokens a second, as the engine counts them; the last column is measured by the client. Weights are random, so a model of this size, not an answer of use.",
        )
        check("a chat on the GPU", rows[0][1] == tokens, f"{rows[0][3]} tokens/s")
        with ThreadPoolExecutor(2) as pool:
            long = pool.submit(hive.chat, "large", "Go on.", max_tokens=4 * tokens, ignore_eos=True)
            used = until("the GPU to be busy", lambda: self.busy(pid), 15)
            check("heartbeat: the GPU is busy during an answer", True, f"{used} %")
            long.result()
        diagnosis = hive.do("ModelDiagnose", id="large")
        self.report.lines("ModelDiagnose", [f"{finding['kind']}: {finding['message']}" for finding in diagnosis["findings"]] or ["no findings"])

    def busy(self, pid):
        with self.hive.open("/v1/heartbeats/stream") as stream:
            beat = json.loads(next(line for line in stream if line.startswith(b"data:"))[5:])
        return next((row["gpu_util_pct"] for row in beat["workers"] if row["pid"] == pid), 0)

    def hold(self, leave):
        """A stranger takes all but so many bytes of the GPU."""
        self.stranger = subprocess.Popen([self.args.stranger, str(leave // MIB)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.stranger.stdout.readline()
        assert line, "the stranger could not take the GPU's memory"
        return until("nvidia-smi to list the stranger", lambda: holders().get(self.stranger.pid))

    def freed(self):
        until("the driver to have all memory back", lambda: taken() < self.base + 64 * MIB)

    SHAPE = {"device": "cuda:0", "context_length": 8192, "slots": 1}

    def needs(self):
        """What the large model needs on the GPU alone."""
        return self.hive.do("ModelLoad", id="large@whole", dry_run=True, **self.SHAPE)["required_bytes"]

    def refused(self):
        """A second model that does not fit, and who holds the memory."""
        check, hive = self.report.check, self.hive
        self.base = taken()
        small = hive.do("ModelLoad", id="small", device="cuda:0")["pid"]
        # Room for half of the model: too little even without the small one.
        held = self.hold(self.needs() // 2)
        stranger = self.stranger.pid
        plan = hive.do("ModelLoad", id="large@whole", dry_run=True, **self.SHAPE)
        named = next((each for each in plan["foreign_processes"] if each["pid"] == stranger), None)
        check("the plan says that it does not fit", plan["fits"] is False, f"{mib(plan['free_bytes'])} free, {mib(plan['missing_bytes'])} missing")
        check("the plan names the stranger and its memory", bool(named) and abs(named["held_bytes"] - held) <= 2 * MIB, f"{named}, nvidia-smi {mib(held)}")
        named = next((each for each in plan["stoppable_workers"] if each["pid"] == small), None)
        check("the plan names the worker that could be stopped", bool(named), named)
        try:
            hive.do("ModelLoad", id="large@whole", **self.SHAPE)
            check("the load is refused", False, "it was loaded")
        except Failed as failed:
            failure = failed.failure
            causes = " ".join(failure.get("causes") or [])
            check("the load is refused for memory", failure["code"] == "out_of_memory", failure["message"])
            check("the refusal names who holds it", str(stranger) in causes, causes)
            self.report.lines("A refusal", failed.lines + [json.dumps(failure)])
        check("the model that was there stays", runs(small) and hive.worker(small)["status"] in ("ready", "busy"), small)
        self.recover()
        self.freed()

    def split(self):
        """A model that the GPU has two thirds of the room for."""
        check, hive = self.report.check, self.hive
        self.base = taken()
        self.hold(self.needs() * 2 // 3)
        worker, plan, used, more, _ = self.load("large", **self.SHAPE)
        lines = list(self.load_lines)
        shares = {share["device"]: share for share in plan["split"]}
        check("a model too large for the GPU is split", "cuda:0" in shares and "cpu" in shares, plan["reason"])
        if "cuda:0" in shares:
            planned, held = shares["cuda:0"]["bytes"], used if used is not None else more
            check("the GPU's part is within its plan", held <= planned, f"planned {mib(planned)}, nvidia-smi {mib(held)}, {(planned - held) / held:+.1%}")
            log = hive.text(f"/v1/workers/{worker['pid']}/log")
            offloaded = re.search(r"offloaded (\d+)/(\d+) layers to GPU", log)
            check("as many layers are there as planned", bool(offloaded) and int(offloaded[1]) == shares["cuda:0"]["layers"], offloaded and offloaded[0])
        answer = hive.chat("large", max_tokens=16, ignore_eos=True)
        speed = answer.get("timings", {}).get("predicted_per_second", 0)
        check("the split model answers", answer["usage"]["completion_tokens"] == 16, f"{speed:.1f} tokens/s, planned to be {plan['slowdown']} times slower")
        self.report.lines("A model that is split", lines)
        self.recover()
        self.freed()

    def evicted(self):
        """An idle model that goes for another."""
        check, hive = self.report.check, self.hive
        self.base = taken()
        worker, _, held, more, _ = self.load("small", device="cuda:0", context_length=32768, slots=2)
        small = worker["pid"]
        self.hold(self.needs() - more // 2)
        plan = hive.do("ModelLoad", id="large@whole", dry_run=True, **self.SHAPE)
        check("the plan names the idle model that would go", plan["fits"] and bool(plan.get("evictions")), plan.get("evictions"))
        try:
            large, lines = hive.job("ModelLoad", id="large@whole", **self.SHAPE)
            check("an idle model makes room", not runs(small) and holders().get(large["pid"]) is not None, f"worker {large['pid']} instead of {small}")
            self.report.lines("An idle model makes room", lines)
        except Failed as failed:
            check("an idle model makes room", False, failed)
            self.report.lines("An idle model makes no room", failed.lines)
        self.recover()
        self.freed()

    def crash(self):
        """kill -9 of a worker: of an idle one, during a stream, and during an answer in one piece."""
        check, hive = self.report.check, self.hive
        before = taken()
        pid = hive.do("ModelLoad", id="large", **self.SHAPE)["pid"]
        held = holders().get(pid)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        crashed = lambda: (lambda seen: seen if seen["status"] == "crashed" else None)(hive.worker(pid))
        worker = until("the crash to be noticed", crashed)
        check("a killed worker is reported", "SIGKILL" in (worker["last_exit"] or ""), f"{worker['last_exit']}, after {time.monotonic() - began:.2f} s")
        until("the driver to take the memory back", lambda: pid not in holders() and taken() < before + 64 * MIB)
        check("its GPU memory is free", True, f"it held {held and mib(held)}; {mib(taken() - before)} more than before, after {time.monotonic() - began:.2f} s")
        found = next(entry for entry in hive.do("HiveCheck")["checks"] if entry["name"] == "workers")
        check("HiveCheck names it", not found["ok"] and str(pid) in found["detail"], f"{found['detail']}: {found['hint']}")

        pid = hive.do("ModelLoad", id="large", **self.SHAPE)["pid"]
        body = {"model": "large", "stream": True, "max_tokens": 4000, "ignore_eos": True, "messages": [{"role": "user", "content": "Go on."}]}
        lines = []
        try:
            with hive.open("/v1/chat/completions", body) as stream:
                for line in filter(bytes.strip, stream):
                    lines.append(line.decode(errors="replace").strip())
                    if len(lines) == 10:
                        os.kill(pid, signal.SIGKILL)
        except Exception as error:
            lines.append(f"{type(error).__name__}: {error}")
        check("a stream that a crash cuts does not end as if whole", len(lines) < 4000 and "[DONE]" not in lines[-1], f"{len(lines)} lines, the last: {lines[-1]}")

        until("the crash to be noticed", crashed)
        pid = hive.do("ModelLoad", id="large", **self.SHAPE)["pid"]
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(hive.chat, "large", "Go on.", max_tokens=4 * self.args.tokens, ignore_eos=True)
            until("the worker to be busy", lambda: hive.worker(pid)["status"] == "busy", 15)
            time.sleep(0.2)
            os.kill(pid, signal.SIGKILL)
            began = time.monotonic()
            try:
                seen = answer.result()["usage"]
            except Exception as error:
                seen = error
        workers = [(each["pid"], each["status"]) for each in hive.do("WorkerProcessList")]
        check("an answer in one piece, after a crash under it", None, f"{seen}, {time.monotonic() - began:.1f} s after it; workers: {workers}")

    def orphan(self):
        """kill -9 of the hive, with a worker and with one that loads."""
        check, hive = self.report.check, self.hive
        pid = hive.do("ModelLoad", id="large", **self.SHAPE)["pid"]
        held = holders().get(pid)
        hive.kill()
        time.sleep(1)
        check("a worker outlives a killed hive", runs(pid) and holders().get(pid) == held, f"{pid} holds {held and mib(held)}")
        took = hive.start()
        listed = hive.do("WorkerProcessList")
        check("the next hive takes it over", [each["pid"] for each in listed] == [pid], f"in {took:.2f} s: {[(each['pid'], each['status']) for each in listed]}")
        seen = until("its memory to be measured", lambda: hive.worker(pid)["vram_bytes"])
        check("and knows its GPU memory", held is not None and abs(seen - held) <= 2 * MIB, f"{mib(seen)}, nvidia-smi {held and mib(held)}")
        check("and its place", hive.worker(pid)["device"] == "cuda:0", hive.worker(pid)["device"])
        answer = hive.chat("large", max_tokens=16, ignore_eos=True)
        check("and it answers", answer["usage"]["completion_tokens"] == 16, answer["usage"])
        before = taken()
        unloaded, lines = hive.job("ModelUnload", id="large")
        now = taken()
        check("an unload is proven: no process, no memory", not runs(pid) and pid not in holders(), f"{mib(before - now)} free again at once")
        check("the bytes freed are nvidia-smi's, and resident ones", held is not None and unloaded["freed_bytes"] >= held, f"hive {mib(unloaded['freed_bytes'])}, nvidia-smi {held and mib(held)}")
        self.report.lines("An unload", lines)

        base = taken()
        hive.submit("ModelLoad", id="large", **self.SHAPE)
        loading = until("a worker that loads to take GPU memory", lambda: next(iter(set(holders())), None), 30)
        hive.kill()
        check("a hive killed during a load", runs(loading), f"worker {loading} holds {mib(holders().get(loading, 0))}")
        took = hive.start()
        listed = hive.do("WorkerProcessList")
        until("the half-loaded worker to be gone", lambda: not runs(loading) or any(each["pid"] == loading for each in listed))
        check("its half-loaded worker is ended by the next", None if listed else not runs(loading), f"start in {took:.2f} s, {len(listed)} worker(s) listed")
        if not listed:
            until("its memory to be free", lambda: taken() < base + 64 * MIB)
        check("and its memory is free", True, f"{mib(taken() - base)} more than before")

    def end(self):
        """A graceful stop with a model loaded."""
        check, hive = self.report.check, self.hive
        pid = hive.do("ModelLoad", id="small", device="cuda:0")["pid"]
        code = hive.stop()
        check("a stop ends the workers", code == 0 and not runs(pid) and pid not in holders(), f"exit code {code}")
        check("the GPU is as it was before", taken() < self.first + 64 * MIB, f"{mib(taken())} taken, at first {mib(self.first)}")

    def run(self):
        end = time.monotonic() + self.args.seconds
        self.first = self.base = taken()
        steps = [self.machine, self.models, self.devices, self.answers, self.plans]
        steps += [self.refused, self.split, self.evicted] if self.args.stranger else []
        steps += [self.crash, self.orphan, self.end]
        steps = [step for step in steps if not self.args.steps or step.__name__ in self.args.steps.split(",")]
        for step in steps:
            if time.monotonic() > end:
                self.report.check(f"{step.__name__} (step)", None, "no time was left")
            elif not self.attempt(step):
                self.recover()
            self.write()
        if self.hive.process and self.hive.process.poll() is None:
            self.hive.stop()
        text, failed = self.write()
        print(text)
        return 1 if failed else 0

    def attempt(self, step, *words):
        """Takes a step; one that breaks off is a failed check, and ends no other."""
        try:
            step(*words)
        except Exception as error:
            self.report.check(f"{step.__name__} (step)", False, f"{type(error).__name__}: {error}")
            traceback.print_exc()
            return False
        return True

    def recover(self):
        """Leaves nothing of a step for the next one."""
        try:
            if self.stranger:
                self.stranger.kill()
                self.stranger.wait()
                self.stranger = None
            if self.hive.process and self.hive.process.poll() is not None:
                self.hive.start()
            if self.hive.process:
                for worker in self.hive.do("WorkerProcessList"):
                    self.hive.do("WorkerProcessDelete", pid=worker["pid"])
        except Exception as error:
            print(f"could not tidy up: {error}", file=sys.stderr)

    def write(self):
        rows = self.report.rows
        failed = [row for row in rows if row[1] == "**no**"]
        lines = [f"## {getattr(self, 'name', 'GPU')}: {len(rows) - len(failed)} of {len(rows)} checks passed or only told", ""]
        lines += ["| check | passed | seen |", "| --- | --- | --- |"]
        lines += [f"| {what} | {mark} | {seen[:400]} |" for what, mark, seen in rows]
        text = "\n".join(lines + self.report.parts) + "\n"
        text = text.replace(str(self.folder), "…")
        Path(self.args.report).write_text(text)
        return text, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default=os.environ.get("RBEE_GPU_STEPS", ""))
    for name in ["hive", "server", "stranger", "built", "folder", "report"]:
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--width", type=int, default=int(os.environ.get("RBEE_GPU_WIDTH", 4096)))
    parser.add_argument("--blocks", type=int, default=int(os.environ.get("RBEE_GPU_BLOCKS", 16)))
    parser.add_argument("--vocabulary", type=int, default=int(os.environ.get("RBEE_GPU_VOCABULARY", 128256)))
    parser.add_argument("--tokens", type=int, default=int(os.environ.get("RBEE_GPU_TOKENS", 256)))
    args = parser.parse_args()
    check = Check(args)
    try:
        code = check.run()
    finally:
        log = check.folder / "hive.log"
        if log.exists():
            Path(f"{args.report}.hive.log").write_bytes(log.read_bytes())
    sys.exit(code)


if __name__ == "__main__":
    main()
