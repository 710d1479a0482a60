"""E-mail on begin, end, fail and retry of a job.

Input: server settings and a message. Output: the message handed to the server.
Invariant: TLS is verified, and a password never travels without it.
"""

import smtplib
import ssl
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate

from pydantic import SecretStr

from lading.sessions.services.http import RemoteError
from lading.sessions.values import LOOPBACK

TIMEOUT = 10.0


@dataclass(frozen=True)
class MailServer:
    """An SMTP server; ``tls`` is ``starttls``, ``implicit`` or ``none`` (``none`` without password only)."""

    host: str
    sender: str
    port: int = 25
    tls: str = "starttls"
    user: str = ""
    password: SecretStr | None = None


def wanted(event: str, types: tuple[str, ...]) -> bool:
    """Tell whether a job with these notification types is told of an event (begin, end, fail, retry)."""
    return event in types or "all" in types


def message(sender: str, recipient: str, subject: str, text: str, *, name: str) -> EmailMessage:
    """Return a message; ``name`` (the job and event) makes its ID, so that a repeated one can be told."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender, recipient, " ".join(subject.split())
    mail["Date"] = formatdate()
    mail["Message-ID"] = f"<{''.join(c if c.isalnum() or c in '.-_' else '-' for c in name)}@lading.invalid>"
    mail.set_content(text)
    return mail


def send(server: MailServer, mail: EmailMessage) -> None:
    """Hand a message to the server; raises ``RemoteError`` with the server's words."""
    if server.password and server.tls == "none" and server.host not in LOOPBACK:
        raise RemoteError(f"mail: {server.host} asks for a password without TLS; set tls to starttls or implicit")
    context = ssl.create_default_context()
    try:
        connection = (
            smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT, context=context)
            if server.tls == "implicit"
            else smtplib.SMTP(server.host, server.port, timeout=TIMEOUT)
        )
        with connection as smtp:
            if server.tls == "starttls":
                smtp.starttls(context=context)
            if server.password:
                smtp.login(server.user, server.password.get_secret_value())
            smtp.send_message(mail)
    except smtplib.SMTPAuthenticationError as error:
        # Its text may quote what was sent.
        raise RemoteError(f"mail: {server.host} refused user {server.user!r} (code {error.smtp_code})") from error
    except (smtplib.SMTPException, OSError) as error:
        raise RemoteError(f"mail: {server.host}:{server.port} did not take the message: {error}") from error
