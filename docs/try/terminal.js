// The page's side of "Try it here": terminals, the load button, and one line for whatever goes wrong.
import { FitAddon } from "./addon-fit.mjs";
import { Terminal } from "./xterm.mjs";

const here = new URL(".", import.meta.url);
const box = document.getElementById("hmp-try");
const find = (name) => box.querySelector(`.try-${name}`);
const [line, bar, load] = [find("line"), find("bar"), find("load")];
const terminals = [];
let worker = null;
let current = 0;

const tell = (text) => {
    line.textContent = text;
};
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function colours() {
    const style = getComputedStyle(box);
    return { background: style.backgroundColor, foreground: style.color, cursor: style.color,
        selectionBackground: "rgba(120, 140, 200, 0.5)" };
}

function fail(why) {
    tell(`${why}. Reload the page to start afresh.`);
    worker?.terminate();
    worker = null;
    bar.hidden = true;
    box.dataset.state = "failed";
}

function send(kind, rest) {
    worker?.postMessage({ kind, ...rest });
}

function type(number, text) {
    send("type", { number, data: new TextEncoder().encode(text) });
}

function open() {
    const number = terminals.length;
    const place = find("screens").appendChild(document.createElement("div"));
    place.className = "try-screen";
    const terminal = new Terminal({ rows: 20, fontSize: 14, lineHeight: 1.2, theme: colours(), screenReaderMode: find("reader").checked });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(place);
    const fitted = () => {
        const width = fit.proposeDimensions()?.cols;
        if (width) terminal.resize(width, terminal.rows);
    };
    fitted();
    terminals.push(terminal);
    terminal.onData((text) => {
        if (worker) tell("");
        type(number, text);
    });
    terminal.onResize(({ cols }) => send("resize", { number, columns: cols }));
    terminal.textarea.addEventListener("focus", () => (current = number));
    new ResizeObserver(fitted).observe(place);
    send("open", { columns: terminal.cols });
    terminal.focus();
}

const hear = {
    progress: ({ done, total }) => {
        bar.value = done / total;
        tell(`${megabytes(done)} of ${megabytes(total)}`);
        if (done >= total) tell("starting Python ...");
    },
    ready: () => {
        bar.hidden = true;
        tell("");
        box.dataset.state = "ready";
        box.dataset.ms = Math.round(performance.now() - box.dataset.began);
        find("keys").hidden = false;
        open();
    },
    shown: ({ number, data }) => terminals[number].write(data, () => send("took", { number, count: data.length })),
    complaint: ({ why }) => tell(why),
    ended: ({ why }) => fail(why),
    failed: ({ why }) => fail(why),
};

async function start() {
    load.disabled = true;
    box.dataset.began = performance.now();
    box.dataset.state = "loading";
    if (typeof WebAssembly !== "object") return fail("this browser has no WebAssembly, which Python needs here");
    const made = await fetch(new URL("made.json", here)).then((answer) => answer.json()).catch(() => null);
    if (!made) return fail("made.json could not be loaded: the site is not whole, or there is no connection");
    find("start").hidden = true;
    bar.hidden = false;
    try {
        worker = new Worker(new URL("worker.js", here), { type: "module" });
    } catch (error) {
        return fail(`the browser does not let this page start a worker: ${error.message}`);
    }
    worker.onerror = (event) => {
        event.preventDefault();
        fail(`the worker did not start${event.message ? `: ${event.message}` : ", it is blocked or not whole"}`);
    };
    worker.onmessage = ({ data }) => hear[data.kind](data);
    const options = Object.fromEntries([...box.querySelectorAll("[name]")].map((each) => [each.name, each.value]));
    send("start", { ...made, options });
    keep(made);
}

// Afterwards the page works without a connection. Without a service worker it works all the same, with one.
async function keep({ files }) {
    try {
        await navigator.serviceWorker.register(new URL(box.dataset.service, document.baseURI));
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

load.addEventListener("click", start);
find("second").addEventListener("click", open);
find("reader").addEventListener("change", ({ target }) => {
    for (const each of terminals) each.options.screenReaderMode = target.checked;
});
for (const key of box.querySelectorAll("[data-key]")) {
    key.addEventListener("click", () => {
        type(current, JSON.parse(`"${key.dataset.key}"`));
        terminals[current].focus();
    });
}
const repaint = () => terminals.forEach((each) => (each.options.theme = colours()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
new MutationObserver(repaint).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
load.disabled = false;
