#!/usr/bin/env python3
"""Writes the seeds in fuzz/corpus: one small input for each thing that a target should know from the start."""

import pathlib
import random
import struct
import zlib

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def frame(opcode, payload, last=True, mask=b"\x01\x02\x03\x04"):
    size = len(payload)
    head = bytes([(0x80 if last else 0) | opcode])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def decoder():
    text, ping = "caf\u00e9 \U0001f426".encode(), frame(9, b"ping")
    seeds = {
        "text": frame(1, text),
        "binary": frame(2, bytes(range(200))),
        "parts": frame(1, text[:5], last=False) + ping + frame(0, text[5:]),
        "empty": frame(1, b"") + frame(2, b""),
        "ping_pong": ping + frame(10, b""),
        "close": frame(8, struct.pack(">H", 1000) + b"bye"),
        "close_without_code": frame(8, b""),
        "close_code_invalid": frame(8, struct.pack(">H", 1005)),
        "not_utf8": frame(1, b"caf\xe9"),
        "too_big": frame(2, bytes(1001)),
        "not_masked": b"\x81\x02{}",
        "reserved_bits": b"\xf1\x80\0\0\0\0",
        "long_length": b"\x82\xff\0\0\0\0\0\0\0\x05" + bytes(9),
    }
    for name, content in seeds.items():
        write("decoder", name, b"\x03" + content)
    compressed = frame(0x41, deflated(text))
    parts = frame(0x42, deflated(text)[:4], last=False) + ping + frame(0, deflated(text)[4:])
    for name, content in {"compressed": compressed + frame(1, text), "compressed_parts": parts}.items():
        write("decoder", name, b"\x83" + content)


def deflated(message, level=6):
    raw = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (raw.compress(message) + raw.flush(zlib.Z_SYNC_FLUSH))[:-4]


def deflate():
    text = b'{"id":1,"connect":{}}' * 9
    chance = random.Random(1)
    seeds = {
        "message": b"\x01\x07" + text,
        "repeated": b"\x86\x71" + text,
        "noise": b"\x81\x77" + bytes(chance.randrange(256) for _ in range(2000)),
        "compressed": b"\x01\x07" + deflated(text),
        "stored": b"\x81\x07" + deflated(text, 0),
        "last_block": b"\x81\x07" + b"\xf3\x48\xcd\xc9\xc9\x07\0\0",
        "zeros": b"\x81\x07" + deflated(bytes(200_000), 9),
    }
    for name, content in seeds.items():
        write("deflate", name, content)


def delta():
    orders = ",".join(f'{{"price":{60000 + n},"amount":{n * n}}}' for n in range(40))
    text = "0123456789abcdef\u00e9\u20ac\U0001f426"
    pairs = {
        "number": (f"[{orders}]", f"[{orders}]".replace("60020", "7")),
        "moved": (orders, orders[300:] + orders[:300]),
        "text": (text * 4, (text * 4).replace("\u00e9", "\u00e8")),
        "empty": ("", ""),
        "all_new": ("", text),
        "runs": ("a" * 300, "a" * 150 + "b" + "a" * 149),
        # The second of these is itself a delta of the first.
        "apply": ("0123456789abcdefghij", "L\nK@0,1:X2~R9YS;"),
        "apply_often": ("0123456789abcdefghij", "1U\nK@0,K@0,K@0,K@0,K@0,K@0,0;"),
    }
    for name, (old, new) in pairs.items():
        old, new = old.encode(), new.encode()
        # The share of the old one, in parts of 256.
        size = len(old) + len(new)
        share = next((part for part in range(256) if size * part // 256 >= len(old)), 255)
        write("delta", name, bytes([share]) + old + new)


def http_head():
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    upgrade = "Host: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" + key
    path = "GET /connection/websocket"
    seeds = {
        "upgrade": f"{path} HTTP/1.1\r\n{upgrade}\r\n",
        "protobuf": f"{path}?format=protobuf HTTP/1.1\r\n{upgrade}Sec-WebSocket-Protocol: centrifuge-protobuf\r\n\r\n",
        "origin": f"{path} HTTP/1.1\r\n{upgrade}Origin: https://a.example\r\n\r\nrest",
        "old_version": f"{path} HTTP/1.1\r\n{upgrade}\r\n".replace("13", "8"),
        "post": "POST /api/publish HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}",
        "http_1_0": "GET / HTTP/1.0\r\n\r\n",
        "cut": f"{path} HTTP/1.1\r\nHost: h",
        "many_headers": "GET / HTTP/1.1\r\n" + "a: b\r\n" * 65 + "\r\n",
        "tls": "\x16\x03\x01 hello\r\n\r\n",
    }
    for name, content in seeds.items():
        write("http_head", name, content.encode("latin-1"))


def json_command():
    seeds = {
        "connect": '{"id":1,"connect":{"token":"t","data":{"a":[1,2]},"name":"js","subs":{"c":{"recover":true}}}}',
        "batch": '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"a","flag":1}}\n',
        "subscribe": '{"id":2,"subscribe":{"channel":"a","delta":"fossil","tf":{"op":"and"},"epoch":"e","offset":9}}',
        "publish": '{"id":3,"publish":{"channel":"a","data":{"n": 1.5e3, "s": "\\u00e9\\n"}}}',
        "other": '{"id":4,"presence":{"channel":"a"}}\n{"id":5,"rpc":{"method":"m","data":[]}}\n{"send":{"data":1}}',
        "refresh": '{"id":6,"refresh":{"token":"t"}}\n{"id":7,"sub_refresh":{"channel":"a"}}',
        "pong": "{}",
        "filter": '{"id":2,"subscribe":{"tf":{"op":"not","nodes":[{"key":"k","cmp":"in","vals":["a","b"]}]}}}',
        "unknown_key": '{"id":1,"new":{"a":null},"unsubscribe":{"channel":"a","more":[{}]}}',
        "list_for_object": '{"id":1,"subscribe":["a"]}',
        "deep": '{"id":1,"publish":{"channel":"a","data":' + "[" * 60 + "]" * 60 + "}}",
        "null": '{"id":1,"connect":null}',
        "recover": '{"id":2,"subscribe":{"channel":"h:1","recover":true,"recoverable":true,"positioned":true,"offset":1}}',
        "history": '{"id":2,"history":{"channel":"h:1","limit":-1,"since":{"offset":1,"epoch":"e"},"reverse":true}}',
        "kept": '{"id":2,"publish":{"channel":"h:1","data":1}}\n{"id":3,"subscribe":{"channel":"h:1","delta":"fossil"}}\n'
        '{"id":4,"publish":{"channel":"h:1","data":2}}\n{"id":5,"history":{"channel":"h:1","limit":5}}',
        "present": '{"id":2,"subscribe":{"channel":"u:#1,2","join_leave":true}}\n{"id":3,"presence":{"channel":"u:#1,2"}}'
        '\n{"id":4,"presence_stats":{"channel":"u:#1,2"}}\n{"id":5,"unsubscribe":{"channel":"u:#1,2"}}',
        "asked": '{"id":2,"subscribe":{"channel":"p:1"}}\n{"id":2,"publish":{"channel":"p:1","data":{}}}\n{"id":2,"rpc":{}}',
        "no_id": '{"send":{"data":1},"publish":{"channel":"a","data":1}}',
        "wishes": '{"id":1,"connect":{"subs":{"a":{},"h:1":{"recover":true,"offset":1},"no:1":{}}}}',
    }
    for name, content in seeds.items():
        write("json_command", name, content.encode())


def field(number, content):
    """A field of bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def command(number, request, identity=1):
    body = bytes([8, identity]) + field(number, request)
    return bytes([len(body)]) + body


FILTER = field(2, b"k") + field(3, b"in") + field(5, b"") + field(5, b"v") + field(4, b"1.5")


def protobuf_command():
    channel = field(1, b"a")
    seeds = {
        "connect": command(4, field(1, b"token") + field(2, b"{}") + field(4, b"js")),
        "subs": command(4, field(3, field(1, b"c") + field(2, channel))),
        "batch": command(4, b"") + command(5, channel + b"\x70\x01", 2),
        "subscribe": command(5, channel + b"\x18\x01" + field(6, b"epoch") + b"\x38\x09" + field(12, b"fossil")),
        "filter": command(5, channel + field(13, field(1, b"or") + field(6, FILTER) + field(6, field(6, FILTER)))),
        "publish": command(7, channel + field(2, b"\xff\x00data")),
        "unsubscribe": command(6, channel),
        "other": command(8, channel) + command(10, channel) + command(13, field(2, b"m")) + command(12, field(1, b"1")),
        "refresh": command(14, field(1, b"token")) + command(15, channel),
        "recover": command(5, field(1, b"h:1") + b"\x18\x01\x38\x01\x48\x01\x50\x01\x58\x01", 2),
        "history": command(10, field(1, b"h:1") + b"\x38\x05" + field(8, b"\x08\x01" + field(2, b"e")) + b"\x48\x01", 2),
        "kept": command(7, field(1, b"h:1") + field(2, b"1"), 2) + command(5, field(1, b"h:1") + field(12, b"fossil"), 3)
        + command(7, field(1, b"h:1") + field(2, b"2"), 4),
        "present": command(5, field(1, b"u:#1,2") + b"\x58\x01", 2) + command(8, field(1, b"u:#1,2"), 3)
        + command(9, field(1, b"u:#1,2"), 4) + command(6, field(1, b"u:#1,2"), 5),
        "pong": b"\0",
        "cut": b"\x09" + command(7, channel)[1:5],
        "length_too_long": b"\xff" * 9 + b"\x7f",
    }
    for name, content in seeds.items():
        write("protobuf_command", name, content)


def payload():
    """What real nodes wrote, as recordings have it."""
    client = b"\x12$34e544ed-55e8-4b20-bb91-3bf6ff185759"
    one, two = b'"\x08{"n": 1}H\xa3\xde\xf8\xb4\xa24', b'"\x08{"n": 2}H\xa6\xde\xf8\xb4\xa24'
    tagged = b'"\x08{"n": 1}:\x06\n\x01k\x12\x01vH\xa1\xde\xf8\xb4\xa24'
    info = b'MSG centrifugo.client.plain 7 12\r\n\x12\x05plain"\x03"\x01x\r\n'
    node = field(1, b"uid") + field(2, b"name") + field(3, b"6.2.0") + b"\x20\x07\x28\x03\x30\x02\x38\x3c"
    seeds = {
        "plain": b"\0" + tagged,
        "kept": b"\0__p1:1:LexKqETe__" + one,
        "delta": b"\0__d1:2:LexKqETe:17:" + one + b":17:" + two,
        "delta_first": b"\0__d1:1:LexKqETe:0::17:" + one,
        "of_client": b'\0"\x03"x"*&' + client + b"H\xab\xde\xf8\xb4\xa24",
        "join": b"\0__j__" + client,
        "leave": b"\0__l__" + client,
        "entry": b"\x01\x032-0" + two,
        "item": b"\x02__p1:1:LexKqETe__" + one,
        "client": b"\x03" + client + field(1, b"user") + field(3, b'{"name":"x"}'),
        "nats": b"\x04\x05plain" + field(2, b"plain") + field(4, tagged),
        "nats_join": b"\x04\x04pr:a" + field(2, b"pr:a") + field(5, field(1, client)),
        "nats_words": b"\x05\x03INFO {\"max_payload\":1048576}\r\nPING\r\n" + info + b"+OK\r\n-ERR 'no'\r\n",
        "nats_reply": b"\x05\x01MSG a 1 INBOX.1 2\r\nhi\r\nPONG\r\n",
        "node": b"\x06" + field(1, b"uid") + field(4, node),
        "unsubscribe": b"\x06" + field(1, b"uid") + field(5, field(1, b"plain") + field(2, b"user")),
        "disconnect": b"\x06" + field(1, b"uid") + field(6, field(1, b"user") + b"\x18\xb8\x17" + field(4, b"away")),
        "shutdown": b"\x06" + field(1, b"uid") + field(7, b""),
        "survey": b"\x06" + field(1, b"uid") + field(8, b"\x08\x01" + field(2, b"channels")),
        "survey_answer": b"\x06" + field(1, b"uid") + field(9, b"\x08\x01\x10\x03"),
        "subscribe": b"\x06" + field(1, b"uid") + field(10, field(1, b"user") + field(2, b"hi:a") + b"\x20\x01"),
        "refresh": b"\x06" + field(1, b"uid") + field(12, field(1, b"user") + b"\x18\x01"),
        "any": b"\x07__p1:1:e__" + one,
    }
    for name, content in seeds.items():
        write("payload", name, content)


def operations():
    chance = random.Random(1)
    # The first byte is the options: one at a time, all, and none.
    for setup in (0, 1, 2, 4, 8, 16, 48, 64, 128, 63, 255):
        for size in (100, 400, 2000):
            content = bytes([setup]) + bytes(chance.randrange(256) for _ in range(size))
            write("operations", f"options_{setup}_{size}", content)


def tls_records():
    chance = random.Random(2)
    for size in (60, 300, 1200):
        for top in (15, 255):
            content = bytes(chance.randrange(top + 1) for _ in range(size))
            write("tls_records", f"to_{top}_{size}", content)


if __name__ == "__main__":
    for target in (decoder, deflate, delta, http_head, json_command, protobuf_command, payload, operations,
                   tls_records):
        target()
