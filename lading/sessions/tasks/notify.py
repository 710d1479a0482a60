"""Mail and webhook when a job begins, ends, fails or is tried again.

Input: the job, its state, the site's mail and webhook settings. Output:
messages to those who asked.
Invariant: a message carries names, states and reasons, never settings; who
asked for nothing gets nothing; a repeated message has the same ID.
"""

import hashlib
from typing import Any

from lading.core.progress import counted
from lading.sessions.services import mail, webhook
from lading.sessions.services.parameter_store import reveal
from lading.sessions.task_context import TaskContext
from lading.sessions.values import secret, url

BEGIN, END, FAIL, RETRY = "begin", "end", "fail", "retry"


def begin(work: TaskContext) -> dict[str, object]:
    """Tell that the job begins."""
    return notify(work, BEGIN, f"{work.job.prefix} begins", f"{work.job.destination} is being prepared.")


def end(work: TaskContext) -> dict[str, object]:
    """Tell that the job is done."""
    facts = work.state.task("upload_data_to_s3").facts
    objects = counted(int(facts.get("objects", 0)), "object")
    text = f"{work.job.destination} is done: {objects}, {facts.get('bytes', 0)} bytes verified."
    return notify(work, END, f"{work.job.prefix} is done", text)


def preview(work: TaskContext) -> dict[str, object]:
    """Say who would be told."""
    if work.job.user_email:
        work.say(f"would notify {work.job.user_email} of: {', '.join(work.job.email_notification_types)}")
    return {}


def notify(work: TaskContext, event: str, subject: str, text: str) -> dict[str, object]:
    """Send one event to the webhook and, if this job's mail wants it, by mail."""
    site = work.settings.site
    told: dict[str, object] = {}
    name = f"{work.job.destination}#{event}#{work.state.attempts}"
    identity = hashlib.sha256(name.encode()).hexdigest()[:32]
    hook = site.get("webhook")
    if hook:
        key = hook.get("secret")
        webhook.post(
            url(hook["url"]),
            {"id": identity, "event": event, "job": work.job.prefix, "destination": work.job.destination, "text": text},
            _revealed(work, key) if key else None,
        )
        told["webhook"] = event
    settings: dict[str, Any] = site.get("mail", {})
    if settings and work.job.user_email and mail.wanted(event, work.job.email_notification_types):
        server = mail.MailServer(
            host=settings["host"],
            sender=settings["sender"],
            port=int(settings.get("port", 25)),
            tls=settings.get("tls", "starttls"),
            user=settings.get("user", ""),
            password=_revealed(work, settings["password"]) if settings.get("password") else None,
        )
        mail.send(server, mail.message(server.sender, work.job.user_email, subject, text, name=identity))
        told["mail"] = work.job.user_email
    return told


def _revealed(work: TaskContext, text: str) -> Any:
    return reveal(secret(text), work.settings.list_path.parent)
