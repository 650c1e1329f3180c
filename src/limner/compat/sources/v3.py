"""V3 classes as entries of a `NodeSource`: the schema, the call and the companions of one `ComfyNode` subclass.

How the pack source uses it (one object a class, kept as long as the class):

- `is_v3(cls)`: whether a class of a pack is one of these (a subclass of `limner.compat.v3.ComfyNode`).
- `V3Class(cls, kind="", python_module="")`: kind defaults to the schema's `node_id`; python_module to the class's
  `RELATIVE_PYTHON_MODULE`.
- `.kind`, `.title`: the node id and the display name (or None).
- `.schema()` and `.describe()`: a `graph.Schema`, and the entry of `/object_info`; both ask the class anew.
- `.make()`: what the engine keeps as the instance. V3 nodes have none; it is the class itself.
- `.function(instance)`: called with inputs and hidden inputs by keyword; gives a `NodeResult`, or an awaitable of one
  for an `async def execute`. Each call gets a fresh locked clone of the class (rule M8), which carries `hidden`.
- `.companion(name, instance)`: `checks` (validate_inputs), `changes_when` (fingerprint_inputs), `lazy`
  (check_lazy_status); None where the class has none of its own.
- `await extension_classes(module)`: calls a module's `comfy_entrypoint`, then `on_load` and `get_node_list` of what it
  gives, and returns the classes; raises what the pack raises, and BadInput for another form.
"""
