// Opens YAML files in yaml-language-server over stdio and prints {file: [messages]} as JSON.
// node lsp.js SERVER FILE...
const { spawn } = require("child_process");
const fs = require("fs");
const path = require("path");
const { pathToFileURL } = require("url");

const [server, ...files] = process.argv.slice(2);
const child = spawn(process.execPath, [server, "--stdio"], { stdio: ["pipe", "pipe", "inherit"] });
const found = {};
let buffer = Buffer.alloc(0);

function send(message) {
  const text = JSON.stringify({ jsonrpc: "2.0", ...message });
  child.stdin.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
}

function receive(message) {
  if (message.id === 0) {
    send({ method: "initialized", params: {} });
    for (const file of files) {
      const uri = pathToFileURL(path.resolve(file)).href;
      const text = fs.readFileSync(file, "utf8");
      send({ method: "textDocument/didOpen", params: { textDocument: { uri, languageId: "yaml", version: 1, text } } });
    }
  } else if (message.method === "textDocument/publishDiagnostics") {
    const file = files.find((one) => pathToFileURL(path.resolve(one)).href === message.params.uri);
    found[file] = message.params.diagnostics.map((one) => `${one.range.start.line + 1}: ${one.message}`);
    if (Object.keys(found).length === files.length) {
      console.log(JSON.stringify(found));
      child.kill();
      process.exit(0);
    }
  } else if (message.method === "workspace/configuration") {
    const settings = { yaml: { validate: true, schemaStore: { enable: false }, format: {}, schemas: {} } };
    send({ id: message.id, result: message.params.items.map((item) => settings[item.section] ?? {}) });
  } else if (message.id !== undefined && message.method) {
    send({ id: message.id, result: null });
  }
}

child.stdout.on("data", (chunk) => {
  buffer = Buffer.concat([buffer, chunk]);
  for (;;) {
    const end = buffer.indexOf("\r\n\r\n");
    if (end < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(buffer.subarray(0, end).toString())[1]);
    if (buffer.length < end + 4 + length) return;
    const body = buffer.subarray(end + 4, end + 4 + length).toString();
    buffer = buffer.subarray(end + 4 + length);
    receive(JSON.parse(body));
  }
});

setTimeout(() => process.exit(3), 60000);
send({ id: 0, method: "initialize", params: { processId: process.pid, rootUri: null, capabilities: { workspace: { configuration: true } } } });
