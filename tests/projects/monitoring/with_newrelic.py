"""New Relic. ``newrelic-admin run-program`` has set it up in developer mode, in which nothing leaves the machine."""

import newrelic.agent
from newrelic.core.application import Application
from reports import report


def begin(settings):
    record = Application.record_transaction

    def record_transaction(self, data):
        attributes = {attribute.name: attribute.value for attribute in data.agent_attributes}
        report(
            "transaction",
            path=data.path,
            type=data.type,
            status=attributes.get("response.status"),
            uri=attributes.get("request.uri"),
            method=attributes.get("request.method"),
            user=attributes.get("enduser.id"),
            custom={attribute.name: attribute.value for attribute in data.user_attributes},
            errors=[error.message for error in data.errors],
        )
        return record(self, data)

    Application.record_transaction = record_transaction


def identify(name):
    newrelic.agent.set_user_id(name)
    newrelic.agent.add_custom_attribute("visitor", name)
