"""An example JupyterHub for a class: one machine, everybody with an account of their own.

Put kvmlab into the environment that JupyterHub runs in (pip install 'kvmlab[lab]'), adapt the lines
marked CLASS, and start it with: jupyterhub -f jupyterhub_config.py. tests/load runs this very file
with 20 learners. For Kubernetes see zero-to-jupyterhub.yaml beside it.
"""

import os
import shutil
import sys
from pathlib import Path

from kvmlab.cli.lab import refresh, shipped

c = get_config()  # noqa: F821  JupyterHub hands it to its configuration file

c.JupyterHub.bind_url = os.environ.get("KVMLAB_HUB_URL", "http://127.0.0.1:8000")
c.JupyterHub.hub_bind_url = os.environ.get("KVMLAB_HUB_INTERNAL_URL", "http://127.0.0.1:8081")
proxy = os.environ.get("KVMLAB_HUB_PROXY") or shutil.which("configurable-http-proxy")
c.ConfigurableHTTPProxy.command = [proxy or "configurable-http-proxy"]
c.ConfigurableHTTPProxy.api_url = os.environ.get("KVMLAB_HUB_PROXY_URL", "http://127.0.0.1:8001")

# CLASS: who may log in. "dummy" with one password is for a closed room; a university has OAuth.
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = os.environ.get("KVMLAB_HUB_PASSWORD", "")
c.Authenticator.allow_all = True

# CLASS: "simple" runs every server as the user who started the hub, in folders of their own.
# With system accounts, leave the default spawner and say create_system_users = True.
c.JupyterHub.spawner_class = "simple"
homes = os.environ.get("KVMLAB_HUB_HOMES") or Path("homes").resolve()
c.SimpleLocalProcessSpawner.home_dir_template = f"{homes}/{{username}}"
c.Spawner.cmd = [str(Path(sys.executable).with_name("jupyterhub-singleuser"))]
c.Spawner.default_url = "/lab/tree/00_index.ipynb"
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120  # a server answers late while a whole class logs in
c.Spawner.mem_guarantee = "260M"  # as measured (README.md): a server, a kernel with labs
if os.geteuid() == 0:
    c.Spawner.args = ["--allow-root"]

# A login is the costly moment, three seconds of two cores: let so many begin at a time.
c.JupyterHub.concurrent_spawn_limit = 4

# Servers of learners who left go after an hour; their files stay.
c.ServerApp.shutdown_no_activity_timeout = 3600


def course(spawner):
    """Give each learner a working copy of the notebooks; what they edited is never touched."""
    refresh(Path(spawner.home_dir_template.format(username=spawner.user.name)), shipped())


c.Spawner.pre_spawn_hook = course

# A script that starts servers (tests/load) has a token; without one there is no such service.
token = os.environ.get("KVMLAB_HUB_TOKEN")
if token:
    c.JupyterHub.services = [{"name": "load", "api_token": token}]
    c.JupyterHub.load_roles = [
        {
            "name": "load",
            "services": ["load"],
            "scopes": ["admin:users", "admin:servers", "access:servers", "list:users"],
        }
    ]
