from channels import Group
from django.db import models


class Room(models.Model):
    title = models.CharField(max_length=50)
    staff_only = models.BooleanField(default=False)

    @property
    def websocket_group(self):
        return Group(f"room-{self.id}")
