from importlib import import_module

import pytest

from lightning_nas.benchmarks.catalog import PUBLISHED, how_to_get

EVERY = pytest.mark.parametrize("table", PUBLISHED.values(), ids=list(PUBLISHED))


@EVERY
def test_every_published_table_has_an_importer_and_full_particulars(table):
    assert callable(import_module(f"lightning_nas.benchmarks.{table.name}").prepare)
    assert PUBLISHED[table.name] is table
    assert table.licence
    assert "arXiv:" in table.citation
    assert all(source.url.startswith("https://") and source.size for source in table.sources)


@EVERY
def test_the_way_to_a_table_names_file_size_page_and_command(table):
    text = how_to_get(table.name)
    for source in table.sources:
        assert {source.file, source.size.split()[0], source.url} <= set(text.replace(",", "").split())
        assert f"lightning-nas data prepare {table.name} --source {source.file}" in text
        assert ("--trust_pickle" in table.command(source)) == source.pickled


def test_other_names_get_the_list_of_names():
    assert "published tables are nasbench201" in how_to_get("my_results")
