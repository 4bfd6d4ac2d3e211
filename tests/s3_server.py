"""A local S3 server for tests: moto's, one request after the other, so that a conditional put is one step as on S3.

(moto's own threaded server looks whether a name is taken and takes it in two steps: of four puts at once, two may win.)
A bucket whose name begins with `careless` overwrites what is there though it is asked not to, as old stores do. Run it
with a port file's path; it serves on 127.0.0.1 until its standard input ends, and keeps everything in memory.
"""

import logging
import sys
import threading
from pathlib import Path

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def s3():
    """The WSGI application."""
    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ, start_response):
        if environ["PATH_INFO"].startswith("/careless"):
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return moto(environ, start_response)

    return answer


if __name__ == "__main__":
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, s3(), threaded=False)
    told = Path(sys.argv[1])
    told.with_suffix(".tmp").write_text(str(server.server_port))
    told.with_suffix(".tmp").rename(told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
