"""The table of the delayed messages."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []

    operations = [
        migrations.CreateModel(
            name="DelayedMessage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("due_date", models.DateTimeField(db_index=True)),
                ("layer", models.CharField(default="default", max_length=100)),
                ("channel_name", models.CharField(max_length=512)),
                ("content", models.TextField()),
                ("problem", models.TextField(blank=True, default="")),
            ],
        ),
    ]
