// The page's side of the terminals: what is typed, what is shown, and one line for whatever goes wrong. It knows no command.
import { FitAddon } from "./addon-fit.mjs";
import { Terminal } from "./xterm.mjs";

const here = new URL(".", import.meta.url);
const ROWS = matchMedia("(width < 56rem)").matches ? 14 : 20;
const AFRESH = "Reload the page to start afresh.";
const terminals = new Map();
let box, worker, asked;
let current = 0;
let made = 0;

const find = (name) => box.querySelector(`.try-${name}`);
const tell = (text) => (find("line").textContent = text);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const send = (kind, rest) => worker?.postMessage({ kind, ...rest });
const type = (number, text) => send("type", { number, data: new TextEncoder().encode(text) });

function colours() {
    const style = getComputedStyle(box);
    return { background: style.backgroundColor, foreground: style.color, cursor: style.color,
        selectionBackground: "rgba(120, 140, 200, 0.5)" };
}

function fail(why) {
    tell(`${why}. ${AFRESH}`);
    worker?.terminate();
    worker = null;
    find("bar").hidden = true;
    find("running").hidden = true;
    find("load").disabled = true;
    box.dataset.state = "failed";
}

function save(name, data) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([data]));
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
}

function open() {
    const number = made++;
    const place = find("screens").appendChild(document.createElement("div"));
    place.className = "try-screen";
    const reading = find("reader").checked;
    const terminal = new Terminal({ rows: ROWS, fontSize: 14, lineHeight: 1.2, theme: colours(), screenReaderMode: reading });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(place);
    terminal.attachCustomKeyEventHandler((key) => !(key.key === "Tab" && key.shiftKey));
    const fitted = () => {
        const width = fit.proposeDimensions()?.cols;
        if (width) terminal.resize(width, ROWS);
    };
    fitted();
    terminals.set(number, terminal);
    terminal.onData((text) => {
        if (worker) tell("");
        type(number, text);
    });
    terminal.onResize(({ cols, rows }) => send("resize", { number, columns: cols, rows }));
    terminal.textarea.addEventListener("focus", () => (current = number));
    const watch = new ResizeObserver(fitted);
    watch.observe(place);
    terminal.end = () => {
        watch.disconnect();
        terminal.dispose();
        place.remove();
    };
    place.terminal = terminal;
    send("open", { number, columns: terminal.cols, rows: ROWS });
    current = number;
    terminal.focus();
}

const hear = {
    progress: ({ done, total }) => {
        find("bar").value = done / total;
        tell(done >= total ? "starting Python ..." : `${megabytes(done)} of ${megabytes(total)}`);
    },
    ready: () => {
        find("bar").hidden = true;
        find("running").hidden = false;
        find("load").textContent = "Start a new machine";
        find("load").disabled = false;
        box.dataset.ms ??= Math.round(performance.now() - box.dataset.began);
        const many = terminals.size || 1;
        for (const each of terminals.values()) each.end();
        terminals.clear();
        for (let each = 0; each < many; each++) open();
        box.dataset.state = "ready";
        tell(asked.told ?? "");
        if (asked.lines) type(current, asked.lines.map((line) => `${line}\r`).join(""));
    },
    // A machine that cannot be had: the one before is gone, another can be asked for.
    refused: ({ why }) => {
        find("bar").hidden = true;
        find("load").disabled = false;
        box.dataset.state = "refused";
        if (asked.options.ram && asked.lines) {
            machine({ lines: asked.lines, told: `${why}: with less, the numbers are others than those on the page` },
                { ...asked.options, ram: "" });
        } else tell(`${why}. Choose something else, or ${AFRESH.toLowerCase()}`);
    },
    shown: ({ number, data }) => terminals.get(number)?.write(data, () => send("took", { number, count: data.length })),
    complaint: ({ text }) => tell(text),
    snapshots: ({ text }) => {
        find("tags").replaceChildren(...text.split("\n").filter(Boolean).map((tag) => new Option(tag)));
        find("snapshot").disabled = !text;
    },
    file: ({ name, data }) => save(name, data),
    ended: ({ text }) => {
        box.dataset.state = "ended";
        tell(`${text}. "Start a new machine" begins anew.`);
    },
    failed: ({ why }) => fail(why),
};

function machine(run, options) {
    asked = { ...run, options };
    find("load").disabled = true;
    box.dataset.state = "loading";
    send("start", { options: Object.fromEntries(Object.entries(options).filter(([, value]) => value)) });
}

// Starts a machine, after Python at first: for the lines of `run`, if there are any, as its command line makes it.
export async function start(where, run) {
    const first = box === undefined;
    box = where;
    if (["loading", "failed"].includes(box.dataset.state)) return; // one thing after the other
    if (first) listen();
    if (run) for (const [name, value] of Object.entries(run.options)) {
        const field = box.querySelector(`[name=${name}]`);
        if (field) field.value = value;
    }
    const chosen = Object.fromEntries([...box.querySelectorAll("[name]")].map((each) => [each.name, each.value.trim()]));
    const wanted = run ? { lines: run.lines, told: `a new machine: ${run.machine}` } : {};
    if (!worker && !(await begin())) return;
    machine(wanted, run?.options ?? chosen);
}

async function begin() {
    box.dataset.began = performance.now();
    box.dataset.state = "loading";
    find("load").disabled = true;
    if (typeof WebAssembly !== "object") return fail("this browser has no WebAssembly, which Python needs here");
    const list = await fetch(new URL("made.json", here)).then((answer) => answer.json()).catch(() => null);
    if (!list) return fail("made.json could not be loaded: the site is not whole, or there is no connection");
    find("bar").hidden = false;
    try {
        worker = new Worker(new URL("worker.js", here), { type: "module" });
    } catch (error) {
        return fail(`the browser does not let this page start a worker: ${error.message}`);
    }
    worker.onerror = (event) => {
        event.preventDefault();
        fail(`the worker did not start${event.message ? `: ${event.message}` : ", it is blocked or not whole"}`);
    };
    worker.onmessage = ({ data }) => worker && hear[data.kind](data);
    send("load", list);
    keep(list);
    return true;
}

// Afterwards the page works without a connection. Without a service worker it works all the same, with one.
async function keep({ files }) {
    try {
        await navigator.serviceWorker.register(box.dataset.service);
        const { active } = await navigator.serviceWorker.ready;
        const loaded = performance.getEntriesByType("resource").map((each) => each.name);
        const own = [...files.map(({ name }) => name), "made.json", "worker.js", "pyodide.mjs", "pyodide.asm.mjs"];
        const urls = [location.href.split("#")[0], ...loaded, ...own.map((name) => new URL(name, here).href)];
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = () => (box.dataset.kept = "yes");
        active.postMessage([...new Set(urls)].filter((url) => url.startsWith(location.origin)), [port2]);
    } catch {
        box.dataset.kept = "no";
    }
}

// What a form types: the parts of its controls, with their values in the place of %; of empty ones nothing.
function line(form) {
    const parts = [...form.querySelectorAll("[data-part]")].filter((each) => !each.disabled && each.value.trim());
    return parts.map((each) => each.dataset.part.replace("%", () => each.value.trim())).join("");
}

function listen() {
    find("second").addEventListener("click", open);
    find("reader").addEventListener("change", ({ target }) => {
        for (const each of terminals.values()) each.options.screenReaderMode = target.checked;
    });
    for (const key of box.querySelectorAll("[data-key]")) {
        key.addEventListener("click", () => {
            type(current, JSON.parse(`"${key.dataset.key}"`));
            terminals.get(current)?.focus();
        });
    }
    for (const form of box.querySelectorAll("[data-types]")) {
        const show = () => {
            const chosen = form.querySelector("select")?.value;
            for (const label of form.querySelectorAll("[data-for]")) {
                label.hidden = !label.dataset.for.split(" ").includes(chosen);
                label.querySelector("input").disabled = label.hidden;
            }
            const output = form.querySelector("output");
            if (output) output.textContent = line(form);
        };
        form.addEventListener("input", show);
        form.addEventListener("submit", (event) => {
            event.preventDefault();
            type(current, `${line(form)}\r`);
        });
        show();
    }
    find("cast").addEventListener("click", () => send("cast", { number: current }));
    find("snapshot").addEventListener("click", () => send("snapshot", { tag: find("tags").value }));
    find("upload").addEventListener("change", async ({ target }) => {
        const [file] = target.files;
        if (file && file.size > target.dataset.limit) tell(`${file.name} is too large for a snapshot: ${megabytes(file.size)}`);
        else if (file) send("upload", { name: file.name, data: new Uint8Array(await file.arrayBuffer()) });
        target.value = "";
    });
    const repaint = () => terminals.forEach((each) => (each.options.theme = colours()));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new MutationObserver(repaint).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
}
