"""A database backend that writes down when connections are opened and closed."""

import lab
from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, parameters):
        connection = super().get_new_connection(parameters)
        lab.note("opened", connection=id(connection))
        return connection

    def _close(self):
        if self.connection is not None:
            lab.note("closed", connection=id(self.connection))
        super()._close()
