"""Take over what waits in the table that Channels 1 made, if it is there."""

from typing import Any

from django.db import migrations

OLD_TABLE = "channels.delay_delayedmessage"


def take_over(apps: Any, schema_editor: Any) -> None:
    """Move the rows of the old table into ours. The old table stays, empty, for nobody here knows who else uses it."""
    connection = schema_editor.connection
    if OLD_TABLE not in connection.introspection.table_names():
        return
    old = schema_editor.quote_name(OLD_TABLE)
    new = schema_editor.quote_name(apps.get_model("channelserver_delay", "DelayedMessage")._meta.db_table)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {new} (due_date, layer, channel_name, content, problem) "
            f"SELECT due_date, %s, channel_name, content, %s FROM {old} ORDER BY id",
            ["default", ""],
        )
        cursor.execute(f"DELETE FROM {old}")


class Migration(migrations.Migration):
    dependencies = [("channelserver_delay", "0001_initial")]

    operations = [
        migrations.RunPython(take_over, migrations.RunPython.noop, hints={"model_name": "delayedmessage"}),
    ]
