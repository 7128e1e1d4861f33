"""Entry of ``python -m rasterloom``, and of a cluster's jobs."""

from rasterloom.pipelines.cluster.environment import take

if __name__ == "__main__":
    take()  # before the import below: pyiceberg looks at the variables when it is imported
    from rasterloom.cli.app import main

    main()
