"""From YAML to cells: the strict reader, the schema with its error lines, the sweep language, the plan."""
