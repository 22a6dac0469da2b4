"""Build battery.fmu from the sources here: python build.py [2|3] [FILE]; needs gcc and FMPy."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import fmpy

HERE = Path(__file__).resolve().parent
# name, FMI 2 type, FMI 3 type, attributes, of the type (start, unit)
VARIABLES = (
    ("p_set", "Real", "Float64", 'causality="input" variability="continuous"', 'unit="kW" start="0"'),
    ("p", "Real", "Float64", 'causality="output" variability="continuous"', 'unit="kW"'),
    ("soc", "Real", "Float64", 'causality="output" variability="continuous"', 'unit="%"'),
    ("soc_start", "Real", "Float64", 'causality="parameter" variability="fixed"', 'unit="%" start="50"'),
    ("capacity_kwh", "Real", "Float64", 'causality="parameter" variability="fixed"', 'start="10"'),
    ("lag_s", "Real", "Float64", 'causality="parameter" variability="fixed"', 'unit="s" start="20"'),
    ("fail_at_s", "Real", "Float64", 'causality="parameter" variability="fixed"', 'unit="s" start="-1"'),
    ("running", "Boolean", "Boolean", 'causality="output" variability="discrete"', ""),
    ("q_set", "Real", "Float64", 'causality="input" variability="continuous"', 'unit="kvar" start="0"'),
    ("q", "Real", "Float64", 'causality="output" variability="continuous"', 'unit="kvar"'),
)
OUTPUTS = (1, 2, 7, 9)
TIME = '<Float64 name="time" valueReference="99" causality="independent" variability="continuous"/>'
UNITS = (
    '<UnitDefinitions><Unit name="kW"/><Unit name="kvar"/><Unit name="%"/><Unit name="s"/></UnitDefinitions>'
)
ABOUT = 'modelName="battery" description="A battery with a lag"'
CAN = 'modelIdentifier="battery" canHandleVariableCommunicationStepSize="true"'


def description2() -> str:
    """Return modelDescription.xml of FMI 2.0."""
    variables = "".join(
        f'<ScalarVariable name="{name}" valueReference="{i}" {about}><{kind} {of_type}/></ScalarVariable>'
        for i, (name, kind, _, about, of_type) in enumerate(VARIABLES)
    )
    outputs = "".join(f'<Unknown index="{i + 1}"/>' for i in OUTPUTS)
    return (
        f'<?xml version="1.0"?><fmiModelDescription fmiVersion="2.0" guid="{{heron-battery}}" {ABOUT}>'
        f'<CoSimulation {CAN} canGetAndSetFMUstate="true"/>{UNITS}'
        f"<ModelVariables>{variables}</ModelVariables><ModelStructure><Outputs>{outputs}</Outputs>"
        f"<InitialUnknowns>{outputs}</InitialUnknowns></ModelStructure></fmiModelDescription>"
    )


def description3() -> str:
    """Return modelDescription.xml of FMI 3.0."""
    variables = "".join(
        f'<{kind} name="{name}" valueReference="{i}" {about} {of_type}/>'
        for i, (name, _, kind, about, of_type) in enumerate(VARIABLES)
    )
    outputs = "".join(f'<Output valueReference="{i}"/>' for i in OUTPUTS)
    unknown = "".join(f'<InitialUnknown valueReference="{i}"/>' for i in OUTPUTS)
    return (
        '<?xml version="1.0"?><fmiModelDescription fmiVersion="3.0" '
        f'instantiationToken="{{heron-battery}}" {ABOUT}><CoSimulation {CAN} canGetAndSetFMUState="true"/>'
        f"{UNITS}<ModelVariables>{variables}{TIME}</ModelVariables>"
        f"<ModelStructure>{outputs}{unknown}</ModelStructure></fmiModelDescription>"
    )


def build(version: int, file: Path) -> Path:
    """Compile and pack; returns the file."""
    headers = Path(fmpy.__file__).parent / "c-code"
    platform = fmpy.platform if version == 2 else fmpy.platform_tuple
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / f"battery{fmpy.sharedLibraryExtension}"
        source = HERE / f"fmi{version}.c"
        subprocess.run(
            [
                "gcc",
                "-O2",
                "-std=c11",
                "-shared",
                "-fPIC",
                f"-I{headers}",
                str(source),
                "-o",
                str(library),
                "-lm",
            ],
            check=True,
        )
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("modelDescription.xml", description2() if version == 2 else description3())
            archive.write(library, f"binaries/{platform}/{library.name}")
    return file


if __name__ == "__main__":
    which = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    print(build(which, Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "battery.fmu"))
