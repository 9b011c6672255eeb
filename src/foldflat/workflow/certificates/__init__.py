"""Promises about compressed models: what is promised, on which examples, and the certificate that says so."""

from foldflat.workflow.certificates.files import CERTIFICATE, certificate_of
from foldflat.workflow.certificates.folders import certify_folder
from foldflat.workflow.certificates.images import ImageData
from foldflat.workflow.certificates.promise import Promise
from foldflat.workflow.certificates.searching import CertifiedSearch, Ladder, search
from foldflat.workflow.certificates.sentences import SentenceData
from foldflat.workflow.certificates.texts import TaskData

__all__ = [
    "CERTIFICATE",
    "CertifiedSearch",
    "ImageData",
    "Ladder",
    "Promise",
    "SentenceData",
    "TaskData",
    "certificate_of",
    "certify_folder",
    "search",
]
