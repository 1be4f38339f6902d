"""Makes text.parquet, chat.parquet and answers.parquet with pyarrow 26.0.1: `python parquet.py`."""
import pyarrow as pa
import pyarrow.parquet as pq

texts = [f"row{i:02}" if i % 7 != 3 else None for i in range(20)]
table = pa.table({"id": list(range(20)), "text": texts, "score": [i / 2 for i in range(20)]})
pq.write_table(table, "text.parquet", row_group_size=6, compression="snappy")
message = pa.struct([("role", pa.string()), ("content", pa.string())])
chats = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": f"yo{i}"}] for i in range(3)]
answers = pa.array([["b", "c"], ["d"], []], pa.list_(pa.string()))
pq.write_table(pa.table({"messages": pa.array(chats, pa.list_(message))}), "chat.parquet", compression="zstd")
pq.write_table(pa.table({"prompt": ["a", "b", "c"], "responses": answers}), "answers.parquet", compression="gzip")
