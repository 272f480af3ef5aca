"""Recurrent text classifiers: text → embedding → recurrent layers → dropout → logits, with every kind of dropout.

| question | module |
| --- | --- |
| which dropouts are there, and whose system is which? | `policy.py` |
| what is a recurrent classifier, and which weights has it? | `config.py` |
| how are its masks drawn? | `drawing.py` |
| what does a cell compute? | `cells.py` |
| what does the whole network compute? | `graph.py` |
| how are texts cut into words? | `vocabulary.py` |
| how is it stored? | `folder.py` |
| how does `extract` run it? | `encoder.py` |
| how does `train` train it? | `network.py` |
"""
