"""Messages for groups."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("channelserver_delay", "0002_take_over")]

    operations = [migrations.AddField("delayedmessage", "to_group", models.BooleanField(default=False))]
