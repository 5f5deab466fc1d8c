"""One delivery, step by step: compile, push, confirm. Called by tasks, callable again at any point.

Every move of ``Delivery.state`` is a compare-and-set, so of two workers on the same delivery one loses and leaves. A
push holds a lease in its task's name: the same task handed out again after its worker was killed takes over at once,
another one waits until the lease has run out. What keeps a gateway from going backwards is not a lock here but the
generation in its ledger; the states only tell people what is going on.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
import time
from datetime import datetime, timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Max, Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from agents.contract import codec
from agents.contract.config import GatewayDocument, Tunnel
from agents.contract.errors import DocumentError
from agents.contract.manual import ManualTunnel
from agents.contract.secret import Secret
from agents.contract.status import GatewayStatus
from agents.contract.upgrade import load_document
from vpnconsole.gateways.models import Gateway
from vpnconsole.lib import channel
from vpnconsole.lib.sealed import SealError
from vpnconsole.rollout import snapshot
from vpnconsole.rollout.choices import PERCENT, UNFINISHED, DeliveryState
from vpnconsole.rollout.client import AgentClient, AgentConflict, AgentMisbehaved, AgentRefused, AgentUnreachable
from vpnconsole.rollout.compile import compile_document
from vpnconsole.rollout.models import Delivery, GatewayRollout, Revision

logger = logging.getLogger(__name__)

#: Longer than a push can take: connecting (3 s), sending and waiting for the answer (10 s).
LEASE_S = 16
CONFIRM_S = 4.0
CONFIRM_EVERY_S = 0.4
BACK_OFF_S = (3, 5, 10, 20, 30)
MAX_ADOPTIONS = 3
#: Characters kept of what an agent says went wrong.
MAX_WORDS = 2_000

_ZERO_NONCE = "0" * 32


def content_digest(document: GatewayDocument) -> str:
    """Return the keyed digest of what a document says apart from generation and nonce."""
    return _keyed(codec.encode(dataclasses.replace(document, generation=1, nonce=_ZERO_NONCE)))


def tunnel_digests(document: GatewayDocument) -> dict[str, str]:
    """Return the keyed digest of each tunnel's part, its pre-shared key included, by tunnel id."""
    keys = {key.id: codec.encode(key) for key in document.preshared_keys}
    tunnels: tuple[Tunnel | ManualTunnel, ...] = (*document.tunnels, *document.manual_tunnels)
    return {tunnel.id: _keyed(codec.encode(tunnel) + keys.get(tunnel.id, b"")) for tunnel in tunnels}


def _keyed(octets: bytes) -> str:
    return salted_hmac("vpnconsole.rollout.content", octets, algorithm="sha256").hexdigest()


# Compiling


def compile_delivery(delivery_id: UUID) -> bool:
    """Give a delivery its revision; True when there is something to push."""
    moved = _move(
        delivery_id,
        (DeliveryState.WAITING, DeliveryState.COMPILING),
        DeliveryState.COMPILING,
        "Compiling the gateway's document",
        only=Q(revision=None),
        claimed_until=timezone.now() + timedelta(seconds=LEASE_S),
    )
    if not moved:
        return Delivery.objects.filter(pk=delivery_id, state=DeliveryState.WAITING).exists()
    try:
        with snapshot.still():
            return _attach_revision(Delivery.objects.select_related("deployment").get(pk=delivery_id))
    except IntegrityError:
        # Another worker made this generation at the same moment: the sweep has it compiled above that one.
        _move(delivery_id, (DeliveryState.COMPILING,), DeliveryState.WAITING, "Waiting for another compilation")
    except DocumentError as error:
        _move(
            delivery_id,
            (DeliveryState.COMPILING,),
            DeliveryState.FAILED,
            "The configuration cannot be compiled",
            error=str(error),
            refused_path=error.path[:200],
            refused_message=error.problem,
        )
    except SealError as error:
        _fail_sealed(delivery_id, error)
    return False


def _attach_revision(delivery: Delivery) -> bool:
    if delivery.state != DeliveryState.COMPILING:
        return False  # superseded meanwhile: a revision of its own would stand above the newer deployment's
    latest = Revision.objects.filter(gateway_id=delivery.gateway_id).defer("document").order_by("-generation").first()
    draft = compile_document(
        snapshot.take(delivery.gateway_id),
        generation=latest.generation + 1 if latest else 1,
        nonce=secrets.token_hex(16),
    )
    if latest is not None and latest.content_digest == content_digest(draft):
        if _in_force(latest):
            _move(
                delivery.pk,
                (DeliveryState.COMPILING,),
                DeliveryState.UNCHANGED,
                f"Generation {latest.generation} is in force already",
                revision=latest,
            )
            return False
        revision = latest
    else:
        revision = _store(draft, delivery)
    return _move(
        delivery.pk,
        (DeliveryState.COMPILING,),
        DeliveryState.WAITING,
        f"Generation {revision.generation} compiled; waiting to be pushed",
        revision=revision,
        claimed_until=None,
        percent=40,
    )


def _fail_sealed(delivery_id: UUID, error: SealError) -> None:
    _move(
        delivery_id,
        (DeliveryState.COMPILING, DeliveryState.PUSHING),
        DeliveryState.FAILED,
        "The console cannot open its own secrets",
        error=str(error),
    )


def _store(document: GatewayDocument, delivery: Delivery) -> Revision:
    return Revision.objects.create(
        gateway_id=delivery.gateway_id,
        generation=document.generation,
        document=Secret(codec.encode(document)),
        digest=codec.digest(document),
        content_digest=content_digest(document),
        tunnels=tunnel_digests(document),
        created_by_id=delivery.deployment.created_by_id,
        deployment=delivery.deployment,
    )


def _in_force(revision: Revision) -> bool:
    return GatewayRollout.objects.filter(
        gateway_id=revision.gateway_id, applied_generation=revision.generation, accepted_digest=revision.digest
    ).exists()


# Pushing


def push_delivery(delivery_id: UUID, claimant: str) -> None:
    """Bring a delivery's revision to its gateway; whatever comes of it stands in the delivery."""
    for _ in range(MAX_ADOPTIONS):
        delivery = _claim(delivery_id, claimant)
        if delivery is None or not _push_once(delivery):
            return
    _park(delivery_id, "The gateway's ledger keeps moving ahead; it is tried again", awaits_contact=False)


def _claim(delivery_id: UUID, claimant: str) -> Delivery | None:
    now = timezone.now()
    mine = Q(state=DeliveryState.PUSHING) & (Q(claimed_by=claimant) | Q(claimed_until__lt=now))
    free = Q(state__in=(DeliveryState.WAITING, DeliveryState.WAITING_GATEWAY, DeliveryState.ACCEPTED))
    moved = Delivery.objects.filter(mine | free, pk=delivery_id, revision__isnull=False).update(
        state=DeliveryState.PUSHING,
        step="Pushing the document to the gateway",
        percent=PERCENT[DeliveryState.PUSHING],
        claimed_by=claimant,
        claimed_until=now + timedelta(seconds=LEASE_S),
        attempts=F("attempts") + 1,
        next_attempt_at=None,
        updated_at=now,
    )
    if not moved:
        return None
    channel.publish("delivery", [delivery_id])
    delivery = Delivery.objects.select_related("gateway", "revision", "deployment").get(pk=delivery_id)
    if delivery.started_at is None:
        Delivery.objects.filter(pk=delivery_id).update(started_at=now)
    return delivery


def _push_once(delivery: Delivery) -> bool:
    """Push one time; True when the delivery has another revision now and wants to be pushed again."""
    revision, gateway = delivery.revision, delivery.gateway
    assert revision is not None
    if not gateway.is_enrolled:
        _park(delivery.pk, "Waiting for the gateway to enrol", awaits_contact=True)
        return False
    if _newest_generation(gateway.pk) > revision.generation:
        _supersede(delivery.pk)
        return False
    try:
        with AgentClient(gateway) as agent:
            agent.put_document(revision.document.reveal())
            _accepted(delivery, revision)
            _confirm(agent, gateway.pk, revision.generation)
    except SealError as error:
        _fail_sealed(delivery.pk, error)
    except AgentUnreachable as error:
        _park(
            delivery.pk, "Unreachable; delivered as soon as the gateway answers", error=str(error), awaits_contact=True
        )
    except AgentMisbehaved as error:
        _park(delivery.pk, "The agent gave an unexpected answer; tried again", error=str(error), awaits_contact=False)
    except AgentRefused as error:
        _refused(delivery.pk, error.path, error.message)
    except AgentConflict as error:
        return _adopt(delivery, revision, error)
    return False


def _accepted(delivery: Delivery, revision: Revision) -> None:
    logger.info("> gateway=%s generation=%s accepted", delivery.gateway_id, revision.generation)
    _move(
        delivery.pk,
        (DeliveryState.PUSHING,),
        DeliveryState.ACCEPTED,
        f"Generation {revision.generation} accepted; the gateway is putting it in force",
        error="",
        awaits_contact=False,
    )


def _confirm(agent: AgentClient, gateway_id: UUID, generation: int) -> None:
    """Watch for a few seconds whether the gateway puts the generation in force; after that the polls do."""
    deadline = time.monotonic() + CONFIRM_S
    while True:
        asked_at = timezone.now()
        status = agent.status()
        record_status(gateway_id, status, asked_at)
        refused = status.refusal is not None and status.refusal.generation >= generation
        if status.applied_generation >= generation or refused or time.monotonic() >= deadline:
            return
        # The agent has no way to call us back: asking again is the only event there is.
        time.sleep(CONFIRM_EVERY_S)


def _refused(delivery_id: UUID, path: str, message: str) -> None:
    logger.warning("! delivery=%s refused path=%r", delivery_id, path[:200])
    _move(
        delivery_id,
        (DeliveryState.PUSHING, DeliveryState.ACCEPTED),
        DeliveryState.REFUSED,
        "Refused by the gateway; the configuration before stays in force",
        error=f"{path or 'document'}: {message}"[:MAX_WORDS],
        refused_path=path[:200],
        refused_message=message[:MAX_WORDS],
    )


def _adopt(delivery: Delivery, revision: Revision, conflict: AgentConflict) -> bool:
    """Deal with a ledger that is ahead of us: superseded by our own newer revision, or a console restored from a
    backup.

    In the second case the same content goes out again above the generation the gateway holds.
    """
    with transaction.atomic():
        Gateway.objects.select_for_update().get(pk=delivery.gateway_id)
        newest = _newest_generation(delivery.gateway_id)
        if newest > revision.generation:
            _supersede(delivery.pk)
            return False
        document = load_document(revision.document.reveal())
        generation = max(conflict.generation, newest) + 1
        adopted = _store(dataclasses.replace(document, generation=generation, nonce=secrets.token_hex(16)), delivery)
        logger.warning(
            "= gateway=%s generation=%s is ahead of ours; continuing with %s",
            delivery.gateway_id,
            conflict.generation,
            adopted.generation,
        )
        return _move(
            delivery.pk,
            (DeliveryState.PUSHING,),
            DeliveryState.WAITING,
            f"The gateway held generation {conflict.generation}; delivered again as {adopted.generation}",
            revision=adopted,
        )


def _newest_generation(gateway_id: UUID) -> int:
    newest = Revision.objects.filter(gateway_id=gateway_id).aggregate(newest=Max("generation"))["newest"]
    return int(newest or 0)


def _park(delivery_id: UUID, step: str, *, error: str = "", awaits_contact: bool) -> None:
    attempts = Delivery.objects.filter(pk=delivery_id).values_list("attempts", flat=True).first() or 1
    wait_s = BACK_OFF_S[min(attempts, len(BACK_OFF_S)) - 1]
    _move(
        delivery_id,
        # An accepted document whose confirmation broke off stays accepted: the polls see to the rest.
        (DeliveryState.PUSHING, DeliveryState.WAITING),
        DeliveryState.WAITING_GATEWAY,
        step,
        error=error,
        awaits_contact=awaits_contact,
        next_attempt_at=timezone.now() + timedelta(seconds=wait_s),
    )


def _supersede(delivery_id: UUID) -> None:
    _move(delivery_id, tuple(UNFINISHED), DeliveryState.SUPERSEDED, "A newer deployment took its place")


# What the gateway says


def record_status(gateway_id: UUID, status: GatewayStatus, asked_at: datetime | None = None) -> None:
    """Take note of what a gateway holds and has in force, and move the deliveries it settles.

    ``asked_at`` (now, if absent) is when the status was asked for: a poll may bring one from before a push that has
    ended meanwhile, and what such a status does not know yet, or no longer holds, settles nothing.
    """
    asked_at = asked_at or timezone.now()
    if not GatewayRollout.objects.filter(pk=gateway_id, read_at__gt=asked_at).exists():
        _keep_status(gateway_id, status, asked_at)
    refusal = status.refusal
    pending = Delivery.objects.filter(gateway_id=gateway_id, state__in=UNFINISHED, revision__isnull=False)
    for delivery in pending.select_related("revision").defer("revision__document"):
        revision = delivery.revision
        assert revision is not None
        holds = status.accepted_generation == revision.generation and status.accepted_digest == revision.digest
        # A push under way says itself whether it was refused; until then the gateway remembers an earlier attempt.
        settled = delivery.state == DeliveryState.ACCEPTED and delivery.updated_at <= asked_at
        if holds and status.applied_generation >= revision.generation:
            _move(
                delivery.pk,
                (DeliveryState.ACCEPTED, DeliveryState.WAITING_GATEWAY),
                DeliveryState.APPLIED,
                f"Generation {revision.generation} is in force",
                error="",
            )
        elif settled and refusal is not None and refusal.generation == revision.generation and not holds:
            _refused(delivery.pk, refusal.path, refusal.message)


def _keep_status(gateway_id: UUID, status: GatewayStatus, asked_at: datetime) -> None:
    refusal = status.refusal
    GatewayRollout.objects.update_or_create(
        gateway_id=gateway_id,
        defaults={
            "accepted_generation": status.accepted_generation,
            "accepted_digest": status.accepted_digest,
            "applied_generation": status.applied_generation,
            "refused_generation": refusal.generation if refusal else 0,
            "refused_path": refusal.path[:200] if refusal else "",
            "refused_message": refusal.message if refusal else "",
            "read_at": asked_at,
        },
    )


def _move(
    delivery_id: UUID,
    from_states: tuple[str, ...],
    state: DeliveryState,
    step: str,
    *,
    only: Q | None = None,
    **fields: object,
) -> bool:
    """Compare-and-set; True when this call made the move."""
    now: datetime = timezone.now()
    if state not in UNFINISHED:
        fields.setdefault("finished_at", now)
        fields.setdefault("next_attempt_at", None)
    fields.setdefault("percent", PERCENT[state])
    rows = Delivery.objects.filter(only or Q(), pk=delivery_id, state__in=from_states)
    moved = rows.update(state=state, step=step[:200], updated_at=now, **fields) == 1
    if moved:
        transaction.on_commit(lambda: channel.publish("delivery", [delivery_id]), robust=True)
        logger.info("= delivery=%s state=%s", delivery_id, state.value)
    return moved
