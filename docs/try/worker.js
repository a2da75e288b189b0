// Runs Python, and hmp in it, beside the page. It knows no command: bytes from the page's terminals go in, bytes come out.
import { loadPyodide } from "./pyodide.mjs";

let pyodide = null;
let page = null;
const terminals = [];

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

async function start({ files, total, wheel, options }) {
    const file = await fetched(files, total);
    const home = new URL(".", import.meta.url).href;
    pyodide = await loadPyodide({ indexURL: home, packageBaseUrl: home });
    pyodide.unpackArchive(await file(wheel), "wheel");
    const web = pyodide.pyimport("hmp.web");
    const send = (number, data) => say("shown", { number, data: data.toJs() });
    page = web.start(pyodide.toPy(options), send, (why) => say("ended", { why }));
    say("ready", {});
}

const act = {
    start,
    open: ({ columns }) => {
        terminals.push(page.open());
        terminals.at(-1).resize(columns);
    },
    type: ({ number, data }) => {
        const complaint = terminals[number].feed(pyodide.toPy(data));
        if (complaint) say("complaint", { why: complaint });
    },
    took: ({ number, count }) => terminals[number]?.shown(count),
    resize: ({ number, columns }) => terminals[number].resize(columns),
};

onmessage = async ({ data }) => {
    try {
        await act[data.kind](data);
    } catch (error) {
        // Of Python's traceback the last line tells.
        const line = String(error.message || error).trim().split("\n").pop().replace(/^[\w.]+(Error|Exception): /, "");
        say("failed", { why: line });
    }
};
