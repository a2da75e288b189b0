// Runs Python, and hmp in it, beside the page. It knows no command: bytes from the page's terminals go in, bytes come out.
import { loadPyodide } from "./pyodide.mjs";

let pyodide = null;
let web = null;
let page = null;
let first = 0; // number of the machine's first terminal: the page never uses one again
const terminals = new Map();

const say = (kind, rest) => postMessage({ kind, ...rest });

// Fetches each file once, with progress, and hands it to Pyodide when that asks for it.
async function fetched(files, total) {
    const kept = new Map();
    let done = 0;
    for (const { name } of files) {
        const url = new URL(name, import.meta.url).href;
        const answer = await fetch(url).catch(() => null);
        if (!answer || !answer.ok) throw new Error(`${name} could not be loaded (${answer ? answer.status : "no connection"})`);
        const parts = [];
        for (const reader = answer.body.getReader(); ; ) {
            const { value, done: end } = await reader.read();
            if (end) break;
            parts.push(value);
            done += value.length;
            say("progress", { done, total });
        }
        kept.set(url, new Blob(parts, { type: answer.headers.get("Content-Type") || "" }));
    }
    const own = self.fetch;
    self.fetch = (what, ...rest) => {
        const blob = kept.get(new URL(what.url || what, import.meta.url).href);
        if (!blob) return own(what, ...rest);
        const type = String(what.url || what).endsWith(".wasm") ? "application/wasm" : blob.type;
        return Promise.resolve(new Response(blob, { headers: { "Content-Type": type } }));
    };
    return async (name) => (await kept.get(new URL(name, import.meta.url).href).arrayBuffer());
}

async function load({ files, total, wheel }) {
    const file = await fetched(files, total);
    const home = new URL(".", import.meta.url).href;
    const refused = new Promise((_, refuse) => {
        const own = WebAssembly.instantiateStreaming.bind(WebAssembly);
        WebAssembly.instantiateStreaming = (...all) => {
            const made = own(...all);
            made.catch(refuse);
            return made;
        };
    });
    // Where WebAssembly refuses the file Pyodide would only warn, and wait for ever.
    pyodide = await Promise.race([loadPyodide({ indexURL: home, packageBaseUrl: home }), refused]);
    pyodide.unpackArchive(await file(wheel), "wheel");
    web = pyodide.pyimport("hmp.web");
}

// Of Python's traceback the last line tells.
const words = (error) => String(error.message || error).trim().split("\n").pop().replace(/^[\w.]+(Error|Exception): /, "");

function start({ options }) {
    page?.close();
    page = null;
    terminals.clear();
    const send = (number, data) => say("shown", { number: first + number, data: data.toJs() });
    try {
        page = web.start(pyodide.toPy(options), send, (kind, text) => say(kind, { text }));
    } catch (error) {
        return say("refused", { why: words(error) });
    }
    say("snapshots", { text: "" });
    return say("ready", {});
}

const act = {
    load,
    start,
    open: ({ number, columns, rows }) => {
        if (!terminals.size) first = number;
        terminals.set(number, page.open(columns, rows));
    },
    type: ({ number, data }) => {
        const complaint = terminals.get(number)?.feed(pyodide.toPy(data));
        if (complaint) say("complaint", { text: complaint });
    },
    took: ({ number, count }) => terminals.get(number)?.shown(count),
    resize: ({ number, columns, rows }) => terminals.get(number)?.resize(columns, rows),
    cast: ({ number }) => say("file", { name: "hmp.cast", data: terminals.get(number).cast().toJs() }),
    snapshot: ({ tag }) => told(() => say("file", { name: `${tag}${web.SUFFIX}`, data: page.snapshot(tag).toJs() })),
    upload: ({ name, data }) => told(() => {
        const tag = page.upload(name, pyodide.toPy(data).tobytes());
        say("complaint", { text: `snapshot ${tag} is here; loadvm ${tag} loads it` });
    }),
};

function told(attempt) {
    try {
        attempt();
    } catch (error) {
        say("complaint", { text: words(error) });
    }
}

// One after the other: what is asked while Python loads waits for it.
let before = Promise.resolve();
onmessage = ({ data }) => {
    before = before.then(() => act[data.kind](data)).catch((error) => say("failed", { why: words(error) }));
};
