-- The scripts that Redis runs: each file follows prelude.lua, whose local names it uses.
std = "lua51"
max_line_length = 120
read_globals = {
  "redis", "KEYS", "ARGV",
  "P", "S", "now", "ends_of", "name_of", "rest_of", "make", "token_of", "wake", "advance", "shrink", "expire", "count",
  "put", "put_lane", "drop", "forget_host", "add_reach", "waiting", "drop_token", "deaths_of", "B", "epoch", "age", "shift",
  "books", "split", "free", "as_table", "sorted_ids", "too_late", "is_known", "note_known", "note_sent", "put_again",
  "is_copied", "mark_copied", "noted", "copy_of", "over", "item_over",
}
files["**/prelude.lua"] = {ignore = {"211"}}
