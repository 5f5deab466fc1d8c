// Fill static/vendor from the npm packages named in package.json. Run after `npm ci --ignore-scripts`.
//
// Copies whole files; the icons become one sprite of the symbols in `icons`, so that a page inlines nothing and loads one
// small file. Nothing here is bundled or fetched.
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, "node_modules");
const vendor = join(root, "static", "vendor");

// Source below node_modules -> name below static/vendor.
const files = {
  "@tabler/core/dist/css/tabler.min.css": "tabler.min.css",
  "@tabler/icons/LICENSE": "icons.LICENSE",
  "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2": "inter-latin.woff2",
  "@fontsource-variable/inter/files/inter-latin-ext-wght-normal.woff2": "inter-latin-ext.woff2",
  "@fontsource-variable/inter/LICENSE": "inter.LICENSE",
  "htmx.org/dist/htmx.min.js": "htmx.min.js",
  "htmx.org/LICENSE": "htmx.LICENSE",
  "idiomorph/dist/idiomorph-ext.min.js": "idiomorph-ext.min.js",
  "idiomorph/LICENSE": "idiomorph.LICENSE",
  "uplot/dist/uPlot.iife.min.js": "uplot.min.js",
  "uplot/dist/uPlot.min.css": "uplot.min.css",
  "uplot/LICENSE": "uplot.LICENSE",
};

const icons = [
  "adjustments",
  "alert-circle",
  "alert-triangle",
  "arrow-down",
  "arrow-up",
  "check",
  "chevron-left",
  "chevron-right",
  "circle-check",
  "circle-dashed",
  "circle-half-2",
  "circle-off",
  "clock",
  "copy",
  "eye",
  "history",
  "info-circle",
  "key",
  "loader",
  "lock",
  "logout",
  "moon",
  "pencil",
  "plus",
  "plug-connected-x",
  "refresh",
  "rocket",
  "router",
  "search",
  "settings",
  "shield-check",
  "shield-lock",
  "sun",
  "trash",
  "user",
  "world",
  "x",
  "zzz",
];

async function symbol(name) {
  const source = await readFile(join(modules, "@tabler/icons/icons/outline", `${name}.svg`), "utf8");
  const body = /<svg[^>]*>(.*)<\/svg>/s.exec(source)[1].replace(/\s+/g, " ").trim();
  return `<symbol id="${name}" viewBox="0 0 24 24">${body}</symbol>`;
}

await rm(vendor, { recursive: true, force: true });
await mkdir(vendor, { recursive: true });
for (const [source, target] of Object.entries(files)) {
  let octets = await readFile(join(modules, source));
  if (/\.(js|css)$/.test(target)) {
    // The maps are not copied, and a manifest storage refuses a comment that points at a missing file.
    octets = octets.toString("utf8").replace(/(\/\/|\/\*)# sourceMappingURL=[^\n*]*(\*\/)?/g, "");
  }
  await writeFile(join(vendor, target), octets);
}
const symbols = await Promise.all(icons.map(symbol));
await writeFile(join(vendor, "icons.svg"), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`);
console.log(`static/vendor: ${Object.keys(files).length + 1} files`);
