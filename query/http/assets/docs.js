// The documentation page: reads the OpenAPI document with the reader's token and shows it.
// Every text reaches the page through textContent, never as markup.
"use strict";

const TOKEN_KEY = "pipehouse-token";
const MAX_SHOWN_ROWS = 200;
const MAX_SHOWN_CHARS = 200000;

const byId = (id) => document.getElementById(id);
let openapi = null;
let token = sessionStorage.getItem(TOKEN_KEY) || "";

/** An element: element("p", {class: "hint"}, "text", child, …); a null attribute is left out. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

function say(text, isProblem = false) {
  byId("status").textContent = text;
  byId("status").className = isProblem ? "problem" : "";
}

// The document -----------------------------------------------------------------------------------

async function load() {
  say("Loading …");
  let answer, body;
  try {
    answer = await fetch("/v0/pipes/openapi.json", { headers: authorization() });
    body = await answer.json();
  } catch (error) {
    forgetDocument();
    say(`The server does not answer: ${error.message}`, true);
    return;
  }
  if (!answer.ok) {
    forgetDocument();
    say(body.error || `The server answered ${answer.status}.`, true);
    return;
  }
  sessionStorage.setItem(TOKEN_KEY, token);
  openapi = body;
  byId("forget").hidden = false;
  byId("nav").hidden = false;
  offerDownload(body);
  showList();
  showSelected();
  const count = endpoints().length;
  say(count === 0 ? "This token can read no endpoint." : "");
}

function authorization() {
  return { Authorization: `Bearer ${token}` };
}

function forgetDocument() {
  openapi = null;
  byId("nav").hidden = true;
}

function offerDownload(body) {
  const link = byId("download");
  if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
  const text = JSON.stringify(body, null, 2);
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
}

/** What can be called: {name, path, operation, formats}, in the order of the document. */
function endpoints() {
  const found = [];
  for (const [path, item] of Object.entries(openapi ? openapi.paths : {})) {
    const format = (item.parameters || []).find((p) => p.name === "format" && p.in === "path");
    found.push({
      // With a space in it: no endpoint can have that name.
      name: format ? path.replace(/^.*\//, "").replace(".{format}", "") : "free SQL",
      path,
      operation: item.get,
      formats: format ? format.schema.enum : [],
    });
  }
  return found;
}

// The list ---------------------------------------------------------------------------------------

function showList() {
  const wanted = byId("filter").value.trim().toLowerCase();
  const selected = selectedName();
  const items = endpoints()
    .filter((e) => `${e.name} ${e.operation.summary}`.toLowerCase().includes(wanted))
    .map((e) =>
      element("li", {}, element("a",
        { href: `#/${encodeURIComponent(e.name)}`, "aria-current": e.name === selected ? "page" : null },
        element("span", { class: "name" }, e.name),
        e.operation.summary === e.name ? null
          : element("span", { class: "summary" }, e.operation.summary),
      )),
    );
  byId("list").replaceChildren(
    ...(items.length ? items : [element("li", { class: "hint" }, "Nothing matches.")]),
  );
}

function selectedName() {
  return decodeURIComponent(location.hash.replace(/^#\/?/, ""));
}

function showSelected() {
  if (!openapi) return;
  showList();
  const all = endpoints();
  const endpoint = all.find((e) => e.name === selectedName());
  const main = byId("content");
  if (endpoint) {
    document.title = `${endpoint.name} · Pipehouse`;
    main.replaceChildren(...endpointPage(endpoint));
    return;
  }
  document.title = "Endpoints · Pipehouse";
  main.replaceChildren(element("section", { class: "welcome" },
    element("h1", {}, "Endpoints"),
    element("p", {}, selectedName()
      ? `This token can read no endpoint '${selectedName()}'.`
      : `${all.length} can be called with this token. Choose one.`)));
}

// One endpoint -----------------------------------------------------------------------------------

function endpointPage(endpoint) {
  const { operation } = endpoint;
  return [
    element("h1", {}, endpoint.name),
    element("p", { class: "path" },
      element("span", { class: "method" }, "GET"), " ",
      element("code", {}, endpoint.path)),
    element("p", { class: "lead" }, operation.description.replace(/\s+/g, " ").trim()),
    element("h2", {}, "Try it"),
    tryForm(endpoint),
    ...columnsSection(operation),
  ];
}

function tryForm(endpoint) {
  const fields = (endpoint.operation.parameters || []).map(field);
  const format = endpoint.formats.length
    ? element("div", { class: "field" },
        element("label", { for: "format" }, "Format"),
        element("select", { id: "format" },
          endpoint.formats.map((name) => element("option", {}, name))))
    : null;
  const curl = element("code", { id: "curl" });
  const result = element("section", { id: "result", "aria-live": "polite" });
  const button = element("button", { type: "submit", class: "primary" }, "Send");
  const form = element("form", { class: "try", autocomplete: "off", novalidate: true },
    fields.length ? null : element("p", { class: "hint" }, "It takes no parameters."),
    fields, format,
    element("div", { class: "curl" }, curl, copyButton(curl)),
    button);
  const refresh = () => { curl.textContent = curlLine(endpoint, form); };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(endpoint, form, button, result);
  });
  refresh();
  return element("div", {}, form, result);
}

function field(parameter) {
  const { name, schema } = parameter;
  const id = `param-${name}`;
  const hint = `${id}-hint`;
  const shape = schema.type === "array" ? schema.items : schema;
  const isChoice = Boolean(shape.enum || shape.type === "boolean");
  const options = shape.enum || ["true", "false"];
  const isLong = name === "q";
  const input = isChoice && schema.type !== "array"
    ? element("select", { id, name, "aria-describedby": hint },
        element("option", { value: "" }, ""), options.map((o) => element("option", {}, String(o))))
    : element(isLong ? "textarea" : "input", {
        id, name, "aria-describedby": hint, "aria-required": parameter.required || null,
        placeholder: placeholder(schema), spellcheck: "false", rows: isLong ? 4 : null,
        inputmode: shape.type === "integer" || shape.type === "number" ? "decimal" : null,
      });
  return element("div", { class: "field" },
    element("label", { for: id }, name,
      parameter.required ? element("span", { class: "required" }, " required") : null,
      element("span", { class: "type" }, parameter["x-type"] || schema.type)),
    input,
    element("p", { class: "hint", id: hint }, hintText(parameter, shape)));
}

function placeholder(schema) {
  const value = schema.default ?? (schema.examples || [])[0];
  if (value === undefined || value === "") return null;
  const label = schema.default === undefined ? "for example " : "";
  return label + (Array.isArray(value) ? value.join(",") : String(value));
}

function hintText(parameter, shape) {
  const { schema } = parameter;
  const parts = [];
  if (parameter.description) parts.push(parameter.description.trim().replace(/\.?$/, "."));
  if (schema.type === "array") parts.push("Several values with commas between them.");
  if (shape.enum && schema.type === "array") parts.push(`One of ${shape.enum.join(", ")}.`);
  if (schema.default !== undefined && schema.default !== "") {
    parts.push(`Default: ${[schema.default].flat().join(",")}.`);
  }
  const example = (schema.examples || [])[0];
  if (example !== undefined) parts.push(`Example: ${[example].flat().join(",")}.`);
  return parts.join(" ");
}

function columnsSection(operation) {
  const json = operation.responses["200"].content["application/json"];
  const columns = json && json.schema.properties.data.items.properties;
  if (!columns) return [];
  const rows = Object.entries(columns).map(([name, schema]) =>
    element("tr", {}, element("th", { scope: "row" }, element("code", {}, name)),
      element("td", {}, element("code", {}, schema["x-clickhouse-type"]))));
  return [
    element("h2", {}, "Columns of the answer"),
    table(["Column", "Type"], rows, "Columns of the answer"),
  ];
}

function table(heads, rows, label, isNumber = () => false) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    element("table", {},
      element("thead", {}, element("tr", {}, heads.map((head, at) =>
        element("th", { scope: "col", class: isNumber(at) ? "number" : null }, head)))),
      element("tbody", {}, rows)));
}

// Trying it --------------------------------------------------------------------------------------

function requestPath(endpoint, form) {
  const query = new URLSearchParams();
  for (const parameter of endpoint.operation.parameters || []) {
    const value = form.elements.namedItem(parameter.name).value;
    if (value !== "") query.append(parameter.name, value);
  }
  const format = form.querySelector("#format");
  const path = format ? endpoint.path.replace("{format}", format.value) : endpoint.path;
  return query.size ? `${path}?${query}` : path;
}

function curlLine(endpoint, form) {
  return `curl -H "Authorization: Bearer $TOKEN" '${location.origin}${requestPath(endpoint, form)}'`;
}

function copyButton(source) {
  const button = element("button", { type: "button", class: "quiet" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      // Pages without TLS have no clipboard: mark the text, so that a key press copies it.
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

async function send(endpoint, form, button, result) {
  const path = requestPath(endpoint, form);
  button.disabled = true;
  result.replaceChildren(element("p", { class: "hint" }, "Sending …"));
  const started = performance.now();
  try {
    const answer = await fetch(path, { headers: authorization() });
    const body = await answer.blob();
    const elapsed = performance.now() - started;
    result.replaceChildren(...await resultView(answer, body, elapsed));
  } catch (error) {
    result.replaceChildren(element("p", { class: "problem" }, `No answer: ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

async function resultView(answer, body, elapsed) {
  const type = answer.headers.get("content-type") || "";
  const facts = element("p", { class: "facts" },
    element("span", { class: answer.ok ? "status ok" : "status bad" }, String(answer.status)),
    ` ${elapsed.toFixed(0)} ms · ${body.size.toLocaleString("en")} bytes · request `,
    element("code", {}, answer.headers.get("x-request-id") || "?"));
  if (/parquet|octet-stream/.test(type)) {
    const link = element("a", { href: URL.createObjectURL(body), download: "answer.bin" },
      "Download the answer");
    return [facts, element("p", {}, link)];
  }
  const text = await body.text();
  const parsed = type.includes("json") && !type.includes("ndjson") ? parse(text) : null;
  if (!answer.ok) return [facts, problemView(parsed, text)];
  if (parsed && Array.isArray(parsed.meta) && Array.isArray(parsed.data)) {
    return [facts, rowsView(parsed), raw("The answer as it was sent", text)];
  }
  return [facts, pre(text)];
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function problemView(parsed, text) {
  if (!parsed || !parsed.error) return pre(text);
  const details = (parsed.errors || []).map((e) => e.error).filter((e) => e && e !== parsed.error);
  return element("div", { class: "problem" },
    element("p", {}, parsed.error),
    details.length ? element("ul", {}, details.map((d) => element("li", {}, d))) : null,
    parsed.code ? element("p", {},
      element("a", { href: parsed.documentation || "/docs/errors" }, parsed.code)) : null);
}

function rowsView(parsed) {
  const shown = parsed.data.slice(0, MAX_SHOWN_ROWS);
  if (!shown.length) return element("p", { class: "hint" }, "No rows.");
  const numeric = parsed.meta.map(({ type }) => /^(Nullable\()?(U?Int|Float|Decimal)/.test(type));
  const rows = shown.map((row) => element("tr", {}, parsed.meta.map(({ name }, at) =>
    element("td", { class: numeric[at] ? "number" : null }, cellText(row[name])))));
  const heads = parsed.meta.map((column) => column.name);
  const more = parsed.data.length - shown.length;
  return element("div", {},
    table(heads, rows, "Rows of the answer", (at) => numeric[at]),
    element("p", { class: "hint" }, `${parsed.data.length} ${parsed.data.length === 1 ? "row" : "rows"}`
      + (more ? `, the first ${shown.length} are shown` : "")));
}

function cellText(value) {
  if (value === null || value === undefined) return element("i", {}, "null");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function raw(title, text) {
  return element("details", {}, element("summary", {}, title), pre(text));
}

function pre(text) {
  const cut = text.length > MAX_SHOWN_CHARS;
  return element("pre", { tabindex: "0" }, text.slice(0, MAX_SHOWN_CHARS), cut ? "\n…" : null);
}

// What the reader does ---------------------------------------------------------------------------

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  load();
});
byId("forget").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN_KEY);
  location.assign("/docs");
});
byId("filter").addEventListener("input", showList);
addEventListener("hashchange", () => {
  showSelected();
  byId("content").focus({ preventScroll: true });
  scrollTo(0, 0);
});
addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName || "");
  if (event.key === "/" && !typing && !byId("nav").hidden) {
    event.preventDefault();
    byId("filter").focus();
  }
});

if (token) {
  byId("token").value = token;
  load();
}
