from app.framework import ResourceBinding
from app.models import Note


class NoteBinding(ResourceBinding):
    model = Note
    stream = "notes"
    fields = ["name", "stars"]
