"""What brokers have in common: dispatch, subscriptions, deliveries, sequence, statistics, event loops.

Users find all of it that they need in ``heron_mqtt.messaging.base``.
"""
