"""Policies to compare with, and one that was trained: named in a scenario, or by ``heron-mqtt evaluate``."""

from powergrid.policies.baselines import IdlePolicy, RandomPolicy
from powergrid.policies.learned import FieldPolicy, LearnedPolicy
from powergrid.policies.observation_policy import NetworkPolicy, ObservationPolicy
from powergrid.policies.predictive import PredictivePolicy

POLICIES = {
    "rule": None,
    "idle": "powergrid.policies:IdlePolicy",
    "random": "powergrid.policies:RandomPolicy",
    "mpc": "powergrid.policies:PredictivePolicy",
    "learned": "powergrid.policies:LearnedPolicy",
    "field": "powergrid.policies:FieldPolicy",
}
"""Short name -> ``module:Class``; None = the agent's own rules."""

__all__ = [
    "POLICIES",
    "FieldPolicy",
    "IdlePolicy",
    "LearnedPolicy",
    "NetworkPolicy",
    "ObservationPolicy",
    "PredictivePolicy",
    "RandomPolicy",
]
