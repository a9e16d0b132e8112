"""Write a handler once; every socket can call it.

TCP, HTTP and UDP listeners share one handler registry under one Trio nursery.
This module holds the public names and executes nothing.
"""

from __future__ import annotations

from oread.client import Client, DatagramCounters, Datagrams, ItemStream, Received, connect, open_datagram
from oread.endpoints import Endpoint
from oread.errors import (
    ApplicationError,
    BadRequest,
    Busy,
    CutShort,
    EndpointError,
    HandlerAbandoned,
    HandlerCancelled,
    HandlerError,
    HandlerLeakWarning,
    MessageError,
    NotAllowed,
    NotFound,
    OreadError,
    RegistrationError,
    SlowBody,
    SubscriptionOverflow,
    TimedOut,
    TooLarge,
)
from oread.limits import DatagramLimits, HttpLimits, HttpsLimits, StreamLimits, TlsLimits
from oread.messages import (
    Datagram,
    FileReply,
    Headers,
    HttpRequest,
    HttpResponse,
    Message,
    Peer,
    Reply,
    ServerSentEvent,
    WebSocketMessage,
)
from oread.protocols.access_log import AccessRecord
from oread.protocols.sequence import SequenceStatistics, SequenceTracker
from oread.registry import (
    Attachment,
    Failure,
    HandlerChange,
    HandlerInfo,
    HandlerOptions,
    Registration,
    Registry,
    Subscription,
    SubscriptionStatistics,
)
from oread.service import Bound, DrainReport, Service, Statistics, open_service, serve

__all__ = [
    "AccessRecord",
    "ApplicationError",
    "Attachment",
    "BadRequest",
    "Bound",
    "Busy",
    "Client",
    "CutShort",
    "Datagram",
    "DatagramCounters",
    "DatagramLimits",
    "Datagrams",
    "DrainReport",
    "Endpoint",
    "EndpointError",
    "Failure",
    "FileReply",
    "HandlerAbandoned",
    "HandlerCancelled",
    "HandlerChange",
    "HandlerError",
    "HandlerInfo",
    "HandlerLeakWarning",
    "HandlerOptions",
    "Headers",
    "HttpLimits",
    "HttpRequest",
    "HttpResponse",
    "HttpsLimits",
    "ItemStream",
    "Message",
    "MessageError",
    "NotAllowed",
    "NotFound",
    "OreadError",
    "Peer",
    "Received",
    "Registration",
    "RegistrationError",
    "Registry",
    "Reply",
    "SequenceStatistics",
    "SequenceTracker",
    "ServerSentEvent",
    "Service",
    "SlowBody",
    "Statistics",
    "StreamLimits",
    "Subscription",
    "SubscriptionOverflow",
    "SubscriptionStatistics",
    "TimedOut",
    "TlsLimits",
    "TooLarge",
    "WebSocketMessage",
    "connect",
    "open_datagram",
    "open_service",
    "serve",
]
