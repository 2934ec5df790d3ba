"""The methods of `Cluster`, in groups."""
