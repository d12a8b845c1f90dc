import record
from django.http import HttpResponse
from django.urls import path

from channelserver import Channel


def work(request, number):
    record.begin(f"view.{number}")
    Channel("chaos.work").send({"id": f"http.{number}"})
    record.end(f"view.{number}")
    return HttpResponse("sent")


urlpatterns = [path("job/<int:number>/", work)]
