from django.db import migrations, models


def make_rooms(apps, schema_editor):
    for number in range(1, 7):
        apps.get_model("app", "Room").objects.create(id=number, title=f"Room {number}", staff_only=number == 6)


class Migration(migrations.Migration):
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Room",
            fields=[
                ("id", models.AutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("title", models.CharField(max_length=50)),
                ("staff_only", models.BooleanField(default=False)),
            ],
        ),
        migrations.RunPython(make_rooms),
    ]
