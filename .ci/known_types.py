"""Every public name of the library has a type that each type checker knows: by basedpyright.

What it says of each name that has none goes to the standard output; the exit status is 1 then.
The tools of the command line are no API, but for what a program may ask the doctor: mypy alone
looks at the rest of them.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

# An editable install is found by a hook, which a type checker does not run.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
COMMAND = ["basedpyright", "--verifytypes", "cpool", "--ignoreexternal", "--outputjson"]
NO_API = re.compile(r"cpool\.tools\b(?!\.doctor\.(\w+\.)?(Diagnosis|Finding|examine)\b)")

done = subprocess.run(COMMAND, stdout=subprocess.PIPE, env=ENVIRONMENT)
symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
public = [s for s in symbols if s["isExported"] and not NO_API.match(s["name"])]
unknown = [s for s in public if not s["isTypeKnown"] or s["isTypeAmbiguous"]]
for symbol in unknown:
    for told in symbol["diagnostics"]:
        print(f"{symbol['name']}: {told['message']}")
print(f"{len(public) - len(unknown)} of {len(public)} public names have a known type")
sys.exit(1 if unknown or not public else 0)
