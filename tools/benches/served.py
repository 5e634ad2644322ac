"""The table of the servers that `tools/bench servers` fetches from: static files as each serves them by default, ranges switched
on where they are an option."""

from .serving import Server

ASGI = """
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
app = Starlette(routes=[Mount("/", StaticFiles(directory="{www}"))])
"""
# Looks at the files at each request, as its documentation wants it where files are replaced while it runs.
WHITENOISE = """
from whitenoise import WhiteNoise
def missing(environ, start_response):
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"not found"]
app = WhiteNoise(missing, root="{www}", autorefresh=True)
"""


def debian(name, packages, command, **files):
    return Server(name, "debian", packages, command, {path.replace("__", "."): text for path, text in files.items()})


def pip(name, packages, command, app=""):
    return Server(name, "pip", packages, command, {"app.py": app} if app else {})


def npm(name, packages, command, app=""):
    return Server(name, "npm", packages, command, {"app.cjs": app} if app else {})


DEBIAN = (
    debian("Apache", "apache2-bin", "apache2 -D FOREGROUND -f {here}/apache.conf", apache__conf="""
ServerRoot /usr/lib/apache2
ServerName localhost
Listen 127.0.0.1:{port}
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
PidFile {here}/pid
ErrorLog {here}/error.log
User www-data
Group www-data
DocumentRoot {www}
"""),
    debian("lighttpd", "lighttpd", "lighttpd -D -f {here}/lighttpd.conf", lighttpd__conf="""
server.document-root = "{www}"
server.bind = "127.0.0.1"
server.port = {port}
mimetype.assign = (".bin" => "application/octet-stream")
"""),
    # The name of a file has no type that it knows, so it has no validators.
    debian("lighttpd without types", "lighttpd", "lighttpd -D -f {here}/lighttpd.conf", lighttpd__conf="""
server.document-root = "{www}"
server.bind = "127.0.0.1"
server.port = {port}
"""),
    debian("nginx", "nginx-light", "nginx -p {here} -c {here}/nginx.conf -e error.log", nginx__conf="""
daemon off; pid nginx.pid;
events {}
http {
    access_log off;
    sendfile on;
    server { listen 127.0.0.1:{port}; root {www}; }
}
"""),
    debian("nginx as a caching proxy", "nginx-light", "nginx -p {here} -c {here}/nginx.conf -e error.log", nginx__conf="""
daemon off; pid nginx.pid;
events {}
http {
    access_log off;
    proxy_cache_path {here}/cache keys_zone=all:1m;
    server {
        listen 127.0.0.1:{port};
        location / { proxy_pass http://127.0.0.1:{origin}; proxy_cache all; proxy_cache_valid 200 5s; }
    }
}
"""),
    debian("Caddy", "caddy", "caddy run --adapter caddyfile --config {here}/Caddyfile", Caddyfile="""
{
    admin off
    auto_https off
    storage file_system {here}/storage
}
:{port} {
    bind 127.0.0.1
    root * {www}
    file_server
}
"""),
    debian("H2O", "h2o", "h2o -c {here}/h2o.conf", h2o__conf="""
user: root
num-threads: 2
listen:
  host: 127.0.0.1
  port: {port}
hosts:
  default:
    paths:
      /:
        file.dir: {www}
"""),
    debian("HAProxy before nginx", "haproxy nginx-light", "haproxy -db -f {here}/haproxy.cfg", haproxy__cfg="""
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend here
    bind 127.0.0.1:{port}
    default_backend there
backend there
    server nginx 127.0.0.1:{origin}
"""),
    debian("Varnish (caching)", "varnish nginx-light",
           "varnishd -F -j none -n {here}/varnish -a 127.0.0.1:{port} -b 127.0.0.1:{origin} -s malloc,1g"),
    debian("Varnish (passing)", "varnish nginx-light",
           "varnishd -F -j none -n {here}/varnish -a 127.0.0.1:{port} -f {here}/pass.vcl", pass__vcl="""
vcl 4.1;
backend default { .host = "127.0.0.1"; .port = "{origin}"; }
sub vcl_recv { return (pass); }
"""),
    debian("Squid (caching)", "squid nginx-light", "squid -N -f {here}/squid.conf", squid__conf="""
http_port 127.0.0.1:{port} accel defaultsite=127.0.0.1
cache_peer 127.0.0.1 parent {origin} 0 no-query originserver
http_access allow all
cache_mem 512 MB
maximum_object_size 256 MB
maximum_object_size_in_memory 256 MB
pid_filename {here}/squid.pid
access_log none
cache_log {here}/squid.log
coredump_dir {here}
shutdown_lifetime 0 seconds
"""),
    Server("Traffic Server (caching)", "debian", "trafficserver nginx-light", "sh {here}/start", {
        "start": """
set -e
mkdir -p {here}/cache {here}/logs {here}/run
cp -r /etc/trafficserver {here}/etc
echo 'map / http://127.0.0.1:{origin}/' > {here}/etc/remap.config
echo '{here}/cache 512M' > {here}/etc/storage.config
cat {here}/records > {here}/etc/records.config
cat > {here}/runroot.yaml <<END
prefix: /usr
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {here}/etc
datadir: {here}/cache
libdir: /usr/lib
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {here}/run
runtimedir: {here}/run
logdir: {here}/logs
cachedir: {here}/cache
END
chmod -R a+rwX {here}
exec traffic_server --run-root={here}/runroot.yaml
""",
        "records": """
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.admin.user_id STRING nobody
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.url_remap.pristine_host_hdr INT 0
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.reverse_proxy.enabled INT 1
CONFIG proxy.config.http.cache.required_headers INT 0
"""}),
    debian("BusyBox httpd", "busybox", "busybox httpd -f -p 127.0.0.1:{port} -h {www}"),
    debian("webfs", "webfs", "webfsd -F -p {port} -i 127.0.0.1 -r {www}"),
    debian("mini_httpd", "mini-httpd", "mini_httpd -D -p {port} -h 127.0.0.1 -d {www}"),
    debian("micro_httpd", "micro-httpd ucspi-tcp", "tcpserver -q 127.0.0.1 {port} micro-httpd {www}"),
    debian("Weborf", "weborf", "weborf -b {www} -p {port} -i 127.0.0.1"),
    debian("CivetWeb", "civetweb", "civetweb -listening_ports 127.0.0.1:{port} -document_root {www}"),
    debian("Yaws", "yaws", "erl -noshell -pa /usr/lib/yaws/ebin -pa /usr/share/yaws/ebin -eval "
           "'ok = yaws:start_embedded(\"{www}\", [{port, {port}}, {listen, {127,0,0,1}}], [{logdir, \"{here}\"}], \"bench\").'"),
    debian("Erlang inets", "erlang-inets erlang-base", "erl -noshell -eval 'ok = inets:start(), {ok, _} = inets:start(httpd, ["
           "{port, {port}}, {bind_address, {127,0,0,1}}, {server_name, \"localhost\"}, {server_root, \"{here}\"}, "
           "{document_root, \"{www}\"}, {modules, [mod_alias, mod_range, mod_get, mod_head]}]).'"),
    debian("WEBrick", "ruby-webrick ruby", "ruby -run -e httpd -- {www} --port={port} --bind-address=127.0.0.1"),
    debian("Puma (Rack::Files)", "puma ruby-rack", "puma --quiet -b tcp://127.0.0.1:{port} {here}/config.ru",
           config__ru='run Rack::Files.new("{www}")\n'),
    debian("php -S", "php-cli", "php -S 127.0.0.1:{port} -t {www}"),
    debian("rclone serve http", "rclone", "rclone serve http {www} --addr 127.0.0.1:{port}"),
    debian("Starman (Plack::App::File)", "starman libplack-perl", "starman --listen 127.0.0.1:{port} --workers 8 {here}/app.psgi",
           app__psgi='use Plack::App::File;\nPlack::App::File->new(root => "{www}")->to_app;\n'),
)

PIP = (
    Server("Python http.server", "python", "", "{python} -m http.server {port} --bind 127.0.0.1 --directory {www}"),
    pip("aiohttp", "aiohttp", "{python} {here}/app.py", """
from aiohttp import web
app = web.Application()
app.router.add_static("/", "{www}")
web.run_app(app, host="127.0.0.1", port={port})
"""),
    pip("Werkzeug", "werkzeug", "{python} {here}/app.py", """
from werkzeug.serving import run_simple
from werkzeug.utils import send_from_directory
from werkzeug.wrappers import Request
@Request.application
def app(request):
    return send_from_directory("{www}", request.path[1:], request.environ)
run_simple("127.0.0.1", {port}, app, threaded=True)
"""),
    pip("Tornado", "tornado", "{python} {here}/app.py", """
import asyncio
import tornado.web
async def main():
    handler = (r"/(.*)", tornado.web.StaticFileHandler, {"path": "{www}"})
    tornado.web.Application([handler]).listen({port}, "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""),
    pip("Sanic", "sanic", "{python} {here}/app.py", """
from sanic import Sanic
app = Sanic("bench")
app.static("/", "{www}", use_content_range=True, stream_large_files=True)
if __name__ == "__main__":
    app.run("127.0.0.1", {port}, single_process=True)
"""),
    pip("Starlette on Uvicorn", "starlette uvicorn", "{python} -m uvicorn --host 127.0.0.1 --port {port} app:app", ASGI),
    pip("Starlette on Hypercorn", "hypercorn starlette", "{python} -m hypercorn -b 127.0.0.1:{port} app:app", ASGI),
    pip("WhiteNoise on Gunicorn", "whitenoise gunicorn", "{python} -m gunicorn -b 127.0.0.1:{port} --threads 8 app:app", WHITENOISE),
    pip("WhiteNoise on Waitress", "whitenoise waitress", "{python} -m waitress --listen=127.0.0.1:{port} app:app", WHITENOISE),
    pip("Bottle on Waitress", "bottle waitress", "{python} -m waitress --listen=127.0.0.1:{port} app:app", """
import bottle
app = bottle.Bottle()
app.route("/<path:path>", callback=lambda path: bottle.static_file(path, root="{www}"))
"""),
    pip("Django's static view on Waitress", "django waitress", "{python} -m waitress --listen=127.0.0.1:{port} app:app", """
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import re_path
from django.views.static import serve
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="bench")
urlpatterns = [re_path("^(?P<path>.*)$", serve, {"document_root": "{www}"})]
app = get_wsgi_application()
"""),
    pip("CherryPy", "cherrypy", "{python} {here}/app.py", """
import cherrypy
cherrypy.config.update({"server.socket_host": "127.0.0.1", "server.socket_port": {port}})
cherrypy.quickstart(None, "/", {"/": {"tools.staticdir.on": True, "tools.staticdir.dir": "{www}"}})
"""),
    pip("WsgiDAV on Cheroot", "wsgidav cheroot", "{venv_bin}/wsgidav --host 127.0.0.1 --port {port} --root {www} --auth anonymous"),
    pip("Twisted", "twisted", "{python} -m twisted web --listen tcp:{port}:interface=127.0.0.1 --path {www}"),
)

NPM = (
    npm("Express (serve-static)", "express", "node {here}/app.cjs", """
const express = require("express")
express().use(express.static("{www}")).listen({port}, "127.0.0.1")
"""),
    npm("http-server", "http-server", "{node_bin}/http-server {www} -p {port} -a 127.0.0.1"),
    npm("serve", "serve", "{node_bin}/serve --no-clipboard --no-request-logging -l tcp://127.0.0.1:{port} {www}"),
    npm("Fastify", "@fastify/static fastify", "node {here}/app.cjs", """
const app = require("fastify")()
app.register(require("@fastify/static"), { root: "{www}" })
app.listen({ port: {port}, host: "127.0.0.1" })
"""),
    npm("Koa (koa-static)", "koa koa-static", "node {here}/app.cjs", """
const Koa = require("koa")
new Koa().use(require("koa-static")("{www}")).listen({port}, "127.0.0.1")
"""),
    npm("hapi (inert)", "@hapi/inert @hapi/hapi", "node {here}/app.cjs", """
const server = require("@hapi/hapi").server({ port: {port}, host: "127.0.0.1" })
server.register(require("@hapi/inert")).then(() => {
    server.route({ method: "GET", path: "/{path*}", handler: { directory: { path: "{www}" } } })
    return server.start()
})
"""),
    npm("sirv", "sirv-cli", "{node_bin}/sirv {www} --dev --quiet --host 127.0.0.1 --port {port}"),
)

SERVERS = (*DEBIAN, *PIP, *NPM, Server("sapwood serve", "ours", "sapwood", "{sapwood} serve {www} --listen 127.0.0.1:{port}"))
