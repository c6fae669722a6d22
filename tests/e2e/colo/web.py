# SPDX-License-Identifier: GPL-2.0-or-later
"""The web server of the bench's guest: Debian's nginx, with its defaults.

Only images of the kinds "web" and "web-generic" (guest.py) have it.  It runs
once it is told to by START, a command of the guest's control port; until then
such a guest differs from others in its files only.
"""

from __future__ import annotations

PORT = 443
NAME = 'guest'      # in the certificate
PACKAGE = 'nginx'
PROGRAM = 'bin/nginx'

_WORD = (1 << 64) - 1

START = 'sh mkdir -p /run /var/lib/nginx /var/log/nginx && nginx'
STARTED = '0 '      # the exit status, first in the answer

# What Debian's nginx.conf says, for one CPU, and a server
_CONFIG = b"""\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {
    worker_connections 768;
}
http {
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log /var/log/nginx/access.log;
    server {
        listen 443 ssl;
        ssl_certificate /etc/nginx/certificate.pem;
        ssl_certificate_key /etc/nginx/key.pem;
        root /srv;
    }
}
"""


def stream(seed: int, size: int) -> bytes:
    """The first @size bytes of the stream in ../guest/colo-stream.h."""
    state = (seed + 0x9e3779b97f4a7c15) & _WORD
    for shift, factor in ((30, 0xbf58476d1ce4e5b9), (27, 0x94d049bb133111eb)):
        state = (state ^ state >> shift) * factor & _WORD
    state = (state ^ state >> 31) or 1
    words = []
    for _ in range((size + 7) // 8):
        state ^= state >> 12
        state ^= state << 25 & _WORD
        state ^= state >> 27
        words.append((state * 2685821657736338717 & _WORD).to_bytes(
            8, 'little'))
    return b''.join(words)[:size]


def body(path: str) -> bytes:
    """What is at /small and at /64k, as on the guest's own HTTP port."""
    return stream(64, 65536) if path == '/64k' else b'hello\n'


def certificate_command(certificate: str, key: str) -> list[str]:
    """Makes a certificate that signs itself, of the kind that is usual now."""
    return ['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
            'ec_paramgen_curve:P-256', '-nodes', '-days', '3650', '-subj',
            f'/CN={NAME}', '-addext', f'subjectAltName=DNS:{NAME}',
            '-keyout', key, '-out', certificate]


def files(certificate: bytes, key: bytes) -> dict[str, bytes]:
    """Beside the program and its libraries, by path."""
    return {
        'etc/passwd': b'root:x:0:0::/:/bin/sh\n'
                      b'www-data:x:33:33::/srv:/bin/false\n',
        'etc/group': b'root:x:0:\nwww-data:x:33:\n',
        'etc/nginx/nginx.conf': _CONFIG,
        'etc/nginx/certificate.pem': certificate,
        'etc/nginx/key.pem': key,
        **{f'srv{path}': body(path) for path in ('/small', '/64k')},
    }
