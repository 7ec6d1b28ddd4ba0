"""Names of hook points, ours and foreign ones."""

import pytest

from monitor.errors import FeaturewatchError
from monitor.sae import HookPoint
from monitor.sae.hook_point import SITES


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resid_post.0", 0), ("resid_post.14", 14), ("blocks.7.hook_resid_post", 7), ("model.layers.29", 29)],
)
def test_reads_known_spellings(name: str, layer: int) -> None:
    assert HookPoint.from_foreign(name) == HookPoint(layer)


@pytest.mark.parametrize(
    "name", ["", "resid_post", "resid_post.-1", "resid_post.01", "resid_mid.3", "blocks.7.hook_resid_mid", "mlp.3"]
)
def test_refuses_other_sites_with_value_rule_and_remedy(name: str) -> None:
    with pytest.raises(FeaturewatchError) as caught:
        HookPoint.from_foreign(name)
    assert repr(name) in caught.value.subject
    assert "resid_post" in caught.value.rule
    assert caught.value.remedy


@pytest.mark.parametrize("site", SITES)
def test_each_site_has_a_name_of_ours_and_of_transformer_lens(site: str) -> None:
    hook_point = HookPoint(3, site)
    assert HookPoint.from_foreign(hook_point.transformer_lens_name) == hook_point == HookPoint.parse(f"{site}.3")


def test_every_spelling_leads_back() -> None:
    hook_point = HookPoint(12)
    for spelling in (str(hook_point), hook_point.transformer_lens_name, hook_point.hugging_face_name):
        assert HookPoint.from_foreign(spelling) == hook_point


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    HookPoint(29).require_in(30, "smollm2")
    with pytest.raises(FeaturewatchError, match=r"'resid_post\.30'.*layers 0 to 29.*resid_post\.29"):
        HookPoint(30).require_in(30, "smollm2")
