// Keeps what "Try it here" loaded, so that it works without a connection; nothing of another origin is ever fetched.
const NAME = "hmp-try-@DIGEST@";

addEventListener("install", () => skipWaiting());

addEventListener("activate", (event) => event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith("hmp-try-") && name !== NAME) await caches.delete(name);
    await clients.claim();
})()));

addEventListener("message", (event) => event.waitUntil((async () => {
    const kept = await caches.open(NAME);
    await Promise.all(event.data.map((url) => kept.add(url).catch(() => null)));
    event.ports[0].postMessage("kept");
})()));

addEventListener("fetch", (event) => event.respondWith((async () => {
    const url = new URL(event.request.url);
    if (url.origin !== location.origin) return Response.error();
    const known = async () => (await caches.open(NAME)).match(event.request, { ignoreSearch: true });
    // A file of this name never changes: its folder is named after its content.
    if (url.pathname.includes("/_static/try-")) return (await known()) || fetch(event.request);
    return fetch(event.request).catch(async () => (await known()) || Response.error());
})()));
