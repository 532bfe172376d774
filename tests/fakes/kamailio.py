"""The proxy and registrar Kamailio, with rtpengine to relay the audio: what stands before a gateway in real life."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from fakes.strangers import hand

needs_kamailio = pytest.mark.skipif(
    not (shutil.which("kamailio") and shutil.which("rtpengine")),
    reason="needs `apt-get install kamailio rtpengine-daemon`",
)

MODULES: Final = "/usr/lib/x86_64-linux-gnu/kamailio/modules/"
REALM: Final = "proxy.example"
PASSWORD: Final = "opens3same"
"""Of every user."""

PATIENCE: Final = 10.0

CONFIG: Final = """
debug=1
log_stderror=yes
children=1
tcp_children=1
auto_aliases=no
alias="{realm}"
listen=udp:{host}:5060
listen=tcp:{host}:5060
mpath="{modules}"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "auth.so"
loadmodule "rtpengine.so"
modparam("usrloc", "db_mode", 0)
modparam("rr", "append_fromtag", 1)
modparam("rtpengine", "rtpengine_sock", "udp:{media}:2223")

request_route {{
    if (!mf_process_maxfwd_header("10")) {{ sl_send_reply("483", "Too Many Hops"); exit; }}
    if (is_method("OPTIONS") && uri == myself) {{ sl_send_reply("200", "OK"); exit; }}
    if (is_method("CANCEL")) {{
        rtpengine_delete();
        if (t_check_trans()) t_relay();
        exit;
    }}
    if (has_totag()) {{
        if (loose_route()) {{
            if (is_method("BYE")) rtpengine_delete();
            route(RELAY);
        }}
        if (is_method("ACK") && t_check_trans()) t_relay();
        exit;
    }}
    t_check_trans();
    if (is_method("REGISTER")) {{
        if (!pv_www_authenticate("{realm}", "{password}", "0")) {{ www_challenge("{realm}", "1"); exit; }}
        save("location");
        exit;
    }}
    if (is_method("INVITE")) {{
        if (!pv_proxy_authenticate("{realm}", "{password}", "0")) {{ proxy_challenge("{realm}", "1"); exit; }}
        consume_credentials();
    }}
    record_route();
    if ($rU =~ "^\\+") $du = "sip:{gateway}:5060";
    else if (!lookup("location")) {{ sl_send_reply("404", "Not Found"); exit; }}
    route(RELAY);
}}

route[RELAY] {{
    if (is_method("INVITE|UPDATE") && has_body("application/sdp")) rtpengine_offer("replace-origin RTP/AVP");
    t_on_reply("MEDIA");
    if (!t_relay()) sl_reply_error();
    exit;
}}

onreply_route[MEDIA] {{
    if (has_body("application/sdp")) rtpengine_answer("replace-origin RTP/AVP");
}}
"""
"""Numbers with a plus go to the gateway, names to whoever registered; every call needs a password."""


@dataclass(frozen=True)
class Kamailio:
    """A running pair."""

    host: str
    "Of the signalling; its port is 5060."
    media: str
    "Where all audio goes through."
    folder: Path

    @property
    def log(self) -> str:
        """What both printed."""
        return "\n".join((self.folder / name).read_text(errors="replace") for name in ("kamailio.log", "rtpengine.log"))


@asynccontextmanager
async def kamailio(folder: Path, host: str, media: str, *, gateway: str) -> AsyncIterator[Kamailio]:
    """Run both.

    Args:
        folder: is made; for configuration and logs.
        host: a loopback address that nobody else uses, for the signalling.
        media: another, for the audio.
        gateway: the address that numbers go to.
    """
    folder.mkdir()
    text = CONFIG.format(host=host, media=media, gateway=gateway, realm=REALM, password=PASSWORD, modules=MODULES)
    (folder / "kamailio.cfg").write_text(text)
    relay = ["rtpengine", "-f", "-E", "--table=-1", f"--interface={media}", f"--listen-ng={media}:2223"]
    relay += ["--port-min=45000", "--port-max=45100", "--log-level=5", f"--pidfile={folder}/rtpengine.pid"]
    proxy = ["kamailio", "-DD", "-E", "-f", str(folder / "kamailio.cfg"), "-Y", str(folder), "-m", "64", "-M", "8"]
    async with _running(relay, folder / "rtpengine.log"):
        await asyncio.sleep(0.3)  # Kamailio asks for it once, when it starts
        async with _running(proxy, folder / "kamailio.log") as process:
            found = Kamailio(host, media, folder)
            async with asyncio.timeout(PATIENCE), hand(host, (host, 5060)) as asking:
                while True:
                    assert process.poll() is None, found.log
                    with contextlib.suppress(TimeoutError):
                        await asking.final(asking.request("OPTIONS"), timeout=1)
                        break
            yield found


@asynccontextmanager
async def _running(command: list[str], log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 5)
        except subprocess.TimeoutExpired:
            process.kill()
            await asyncio.to_thread(process.wait)
