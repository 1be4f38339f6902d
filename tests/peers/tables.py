"""Compares a table in Parquet, as pyarrow reads it, with the records in lines of JSON: PARQUET NDJSON."""

import json
import sys

import pyarrow.parquet

table = pyarrow.parquet.read_table(sys.argv[1]).to_pylist()
records = {r["path"]: r for r in map(json.loads, open(sys.argv[2], encoding="utf-8"))}

checkpoints = {r["path"]: r for r in table if r["row"] == "checkpoint"}
unreadable = {r["path"]: r for r in table if r["row"] == "unreadable"}
assert checkpoints.keys() | unreadable.keys() == records.keys()
assert all(r["schema"] == 2 for r in table)
for path, row in unreadable.items():
    assert row["reason"] and row["error"] == records[path]["kind"], row
seen = 0
for path, row in checkpoints.items():
    record = records[path]
    assert json.loads(row["record"]) == record
    assert row["tensors"] == len(record["tensors"]) and row["bytes"] == record["file_bytes"]
    assert row["damaged"] == record["damaged"] and row["format"] == record["format"]
    assert row["step"] == record["step"] and row["parameters"] == record["parameters"]
    if not record["damaged"]:
        assert row["verdict"] == record["verdict"]
    tensors = [r for r in table if r["row"] == "tensor" and r["path"] == path]
    assert [r["dtype"] for r in tensors] == [t["dtype"] for t in record["tensors"]]
    for found, tensor in zip(tensors, record["tensors"]):
        assert found["shape"] == "x".join(map(str, tensor["shape"])), found
        assert found["verdict"] == tensor["verdict"] and found["reason"] == tensor.get("reason")
        for key in ("mean", "std", "min", "max", "count", "nan", "inf"):
            assert found[key] == (tensor["stats"] or {}).get(key), (path, tensor["name"], key)
            seen += found[key] is not None
assert seen > 100
print(seen, "values agree")
