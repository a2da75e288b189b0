// Runs pytest inside Pyodide, in node: node run.mjs ROOT SITE_PACKAGES ARGUMENT...
// ROOT is this repository, SITE_PACKAGES has pytest and what it needs, which is Python alone.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [root, packages, ...arguments_] = process.argv.slice(2);
const require = createRequire(`${root}/.npm/`);
const { loadPyodide } = await import(pathToFileURL(require.resolve("pyodide/pyodide.mjs")));
const pyodide = await loadPyodide({ env: { HOME: "/tmp", PYTEST_DISABLE_PLUGIN_AUTOLOAD: "1", PYTHONDONTWRITEBYTECODE: "1" } });
for (const [place, folder] of [["/hmp", root], ["/packages", packages]]) {
    pyodide.FS.mkdirTree(place);
    pyodide.FS.mount(pyodide.FS.filesystems.NODEFS, { root: folder }, place);
}
pyodide.FS.chdir("/hmp");
pyodide.globals.set("arguments", pyodide.toPy(arguments_));
const status = pyodide.runPython(`
import sys
sys.dont_write_bytecode = True
sys.path[:0] = ["/hmp"]
sys.path.append("/packages")
import pytest
int(pytest.main(list(arguments)))
`);
process.exit(status);
