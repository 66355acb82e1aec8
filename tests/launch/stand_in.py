"""A stand-in for a training: a script that writes evaluations, and resumes after SIGTERM.

Its arguments are the workdir, the slope of its scores and the number of epochs; a negative slope
makes it fail.
"""

WORK = """
import json, signal, sys, time
from pathlib import Path

workdir, slope, epochs = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
if slope < 0:
    sys.exit(7)
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
workdir.mkdir(parents=True, exist_ok=True)
table, manifest = workdir / "metrics.csv", workdir / "manifest.json"
if not table.exists():
    table.write_text("step,epoch,split,loss,accuracy\\n")
    manifest.write_text(json.dumps({"config": {"train": {}}}))
done = len(table.read_text().splitlines()) - 1
with (workdir / "starts").open("a") as file:
    file.write(f"{done}\\n")
for epoch in range(done + 1, epochs + 1):
    time.sleep(0.4)
    if stopped:
        sys.exit(143)
    with table.open("a") as file:
        file.write(f"{10 * epoch},{epoch}.0,validation,1.0,{slope * epoch / epochs}\\n")
manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"end": {"step": 10 * epochs}}))
"""
