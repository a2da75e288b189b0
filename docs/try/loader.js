// On every page with a terminal, or with commands that one can run: it is small, and loads the rest on the reader's click.
const template = document.getElementById("hmp-try-box");
const place = document.querySelector(".hmp-try-here");
let box = null;
let side = null;
let module = null;

// The terminal: in its place on "Try it here", on other pages in a panel beside the text.
function make() {
    box = template.content.firstElementChild.cloneNode(true);
    box.dataset.service = new URL(template.dataset.service, document.baseURI).href;
    if (place) place.replaceChildren(box);
    else {
        side = document.createElement("aside");
        side.className = "try-side";
        side.setAttribute("aria-label", "hmp in a terminal");
        const close = document.createElement("button");
        close.textContent = "Close";
        close.addEventListener("click", () => show(false));
        side.append(close, box);
        document.body.append(side);
    }
    box.querySelector(".try-load").addEventListener("click", () => begin());
}

function show(open) {
    if (!side) return;
    side.hidden = !open;
    document.body.classList.toggle("try-open", open);
}

async function begin(run) {
    if (!box) make();
    show(true);
    try {
        module ??= await import("./terminal.js");
    } catch {
        box.dataset.state = "failed";
        box.querySelector(".try-line").textContent =
            "The terminal's script could not be loaded. Reload the page to start afresh.";
        return;
    }
    module.start(box, run);
    for (const button of buttons) button.textContent = button.dataset.label;
}

const buttons = document.querySelectorAll("[data-run]");
const size = template.content.querySelector(".try-load").textContent.replace(/.*\(/, "(");
for (const button of buttons) {
    button.dataset.label = button.textContent;
    button.textContent += ` ${size}`;
    button.addEventListener("click", () => begin(JSON.parse(button.dataset.run)));
}
for (const each of document.querySelectorAll(".try-run")) each.hidden = false;
if (place) make();
