// A service that writes down every whole request as Node reads it, one JSON object a line.
'use strict';
const http = require('node:http');

const fold = (name) => name.toLowerCase().replace(/[_.]/g, '-');

const server = http.createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const names = request.rawHeaders.filter((_, at) => at % 2 === 0);
    const values = (name) => request.rawHeaders.filter((_, at) => at % 2 === 1 && names[(at - 1) / 2].toLowerCase() === name);
    const pathname = new URL(request.url, 'http://any.test').pathname;
    const view = Buffer.from(pathname.replace(/%([0-9a-fA-F]{2})/g, (_, digits) => String.fromCharCode(parseInt(digits, 16))), 'latin1');
    process.stdout.write(JSON.stringify({
      method: request.method,
      target: request.url,
      host: values('host'),
      view: view.toString('hex'),
      id: values('x-request-id'),
      apps: values('x-postern-app'),
      forged: names.filter((name) => fold(name) === 'x-postern-app').length - 1,
      body: Buffer.concat(parts).toString('hex'),
    }) + '\n');
    response.setHeader('Content-Length', '2');
    response.end('ok');
  });
});
server.keepAliveTimeout = 60000;
server.listen(Number(process.argv[3]), process.argv[2]);
