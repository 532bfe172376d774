"""What people see in their terminal."""
