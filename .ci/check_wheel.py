"""Run in an environment that holds nothing but the wheel: what it put there, how it imports, that the scorer works."""

import subprocess
import sys
import time
from importlib.metadata import files


tops = {path.parts[0] for path in files("ee-trl") or () if not path.parts[0].startswith((".", "__"))}
tops = {top for top in tops if not top.endswith(".dist-info")}
assert tops == {"ee_trl"}, f"the wheel puts more than ee_trl into site-packages: {tops}"

code = "import sys, ee_trl; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
start = time.perf_counter()
subprocess.run([sys.executable, "-c", code], check=True)
seconds = time.perf_counter() - start
assert seconds < 2, f"import ee_trl took {seconds:.1f} s"


def main() -> None:
    import ee_trl
    import ee_trl.evaluation.metrics.distinct
    import ee_trl.recipes.sft_sensibility
    import ee_trl.reports.explorer

    for name in ee_trl.__all__:
        getattr(ee_trl, name)
    selector = ee_trl.EmpathyDataSelector("linear")
    scored = selector.score(ee_trl.load_sample())
    assert all(status == "scored" for status in scored["score_status"])
    assert len(selector.select(scored, keep="sensibility")) > 0
    try:
        ee_trl.load_metric("distinct")
        said = "nothing"
    except ImportError as error:
        said = str(error)
    assert "pip install 'ee-trl[metrics]'" in said, f"the extra `metrics` is absent, and load_metric said {said}"
    try:
        ee_trl.write_explorer(scored, "explorer.html")
        said = "nothing"
    except ImportError as error:
        said = str(error)
    assert "pip install 'ee-trl[explorer]'" in said, f"the extra `explorer` is absent, and write_explorer said {said}"
    page = ee_trl.reports.explorer.explorer_page({}, "")
    assert "countsAt" in page, "the explorer's page is in the wheel"
    assert "license: unknown" in str(selector.card(scored))
    print(f"wheel: one package, imported in {seconds:.2f} s, {len(scored)} samples scored")


main()
