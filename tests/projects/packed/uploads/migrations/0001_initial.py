"""The table of the uploads."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """The table."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            "Upload",
            [("id", models.BigAutoField(primary_key=True)), ("file", models.FileField(upload_to=""))],
        )
    ]
