"""The scripted agent: menus, questions and transfers, with no AI at all."""
