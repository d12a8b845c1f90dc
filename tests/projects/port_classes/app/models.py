from django.db import models


class Vote(models.Model):
    title = models.CharField(max_length=50)
    number = models.IntegerField(default=0)
